;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; Writes guile.texi, the sections of the manual on the Guile module, of the docstrings there.  tests/manuals.rs
;; compares.
(use-modules (guix-offload)
             ((guix-offload arguments) #:select (signatures))
             (ice-9 documentation)
             (ice-9 format)
             (ice-9 match)
             (ice-9 regex)
             (ice-9 session)
             (srfi srfi-1)
             (srfi srfi-11)
             (texinfo string-utils))

;; A section begins with the export that is named first here, in the order of the module's list of exports.
(define %sections
  '((offload-free! "Handles and Errors")
    (offload-version "Version")
    (make-offload-machine "Machines")
    (make-offload-engine "Engine and Requests")
    (make-offload-cancellation "Cancellation")
    (offload-choose "The Verbs")
    (offload-start-job "Jobs")
    (make-offload-hook "The Hook as a Procedure")
    (offload-test-machines "All Machines at Once")))

(define %exports
  (match (call-with-input-file "bindings/guile/guix-offload.scm" read)
    (('define-module _ options ...)
     (second (memq #:re-export options)))))

(let ((interface (module-map (lambda (name _) name) (resolve-interface '(guix-offload)))))
  (unless (lset= eq? interface %exports)
    (error "the module exports something else:" (lset-xor eq? interface %exports))))
(unless (lset<= eq? (map first %sections) %exports)
  (error "sections begin with what is not exported:" (lset-difference eq? (map first %sections) %exports)))

(define (escape text)
  (regexp-substitute/global #f "[@{}]" text 'pre "@" 0 'post))

(define (variable name)
  (string-append "@var{" (escape (symbol->string name)) "}"))

(define (argument name type)
  "What the only argument of the procedure NAME is called, which takes a TYPE, a symbol, or #f."
  (define (is-of? record)
    (string-prefix? record (symbol->string name)))
  (cond ((eq? type 'any-handle) 'handle)
        ((symbol? type) type)
        ((string-suffix? "?" (symbol->string name)) 'object)
        ((is-of? "guix-offload-error-") 'condition)
        ((is-of? "offload-event-") 'event)
        ((is-of? "offload-machine-report-") 'report)
        (else (error "what does it take?" name))))

(define (formals name procedure)
  "The arguments of PROCEDURE, with the defaults of those that may be left out, as `define*' has them."
  (match (assq-ref (signatures) name)
    ((('handle) (_ . type)) (list (argument name type)))
    ((formals . _) formals)
    (#f
     (match (assq-ref (procedure-arguments procedure) 'required)
       (() '())
       ((_) (list (argument name #f)))))))

(define (described formals)
  "The arguments as @deffn takes them: a list of texts."
  (let loop ((formals formals) (kind #f))
    (match formals
      (() '())
      (((? keyword? keyword) rest ...)
       (loop rest keyword))
      ((formal rest ...)
       (let-values (((name default)
                     (match formal
                       ((name ('quote value)) (values name (format #f " '~s" value)))
                       ((name (? pair?)) (values name ""))
                       ((name value) (values name (format #f " ~s" value)))
                       (name (values name "")))))
         (cons (match kind
                 (#f (symbol->string name))
                 (#:optional (format #f "[~a~a]" name default))
                 (#:key (format #f "[#:~a~a]" name default)))
               (loop rest kind)))))))

(define (fill text)
  (fill-string text #:line-width 100 #:break-long-words? #f))

(define (texinfo text names)
  "TEXT, a docstring, whose words in capitals are the arguments NAMES."
  (let* ((text (escape text))
         (text (regexp-substitute/global #f "`([^']*)'" text 'pre "@code{" 1 "}" 'post)))
    (regexp-substitute/global #f "[A-Z][A-Z-]+[?!]?" text
      'pre
      (lambda (found)
        (let ((name (string->symbol (string-downcase (match:substring found)))))
          (if (memq name names)
              (variable name)
              (match:substring found))))
      'post)))

(define (show name value)
  (if (procedure? value)
      (let* ((formals (formals name value))
             (names (filter-map (match-lambda
                                  ((? keyword?) #f)
                                  ((name _) name)
                                  (name name))
                                formals)))
        ;; A line that ends with @ goes on.
        (format #t "~%@deffn Procedure ~a~%~a~%@end deffn~%"
                (string-join (string-split (fill (string-join (cons (symbol->string name)
                                                                    (map escape (described formals)))))
                                           #\newline)
                             " @\n")
                (fill (texinfo (object-documentation value) names))))
      (format #t "~%@deffn {Condition Type} ~a~%What a call raises that fails.~%@end deffn~%" name)))

(display "@c SPDX-License-Identifier: GPL-3.0-or-later
@c Written by guile.scm: UPDATE_MANUAL=1 cargo test --test manuals
")
(format #t "~%@menu~%~:{* ~*~a::~%~}@end menu~%" %sections)
(let ((module (resolve-interface '(guix-offload))))
  (for-each (lambda (name)
              (match (assq name %sections)
                ((_ title) (format #t "~%@node ~a~%@section ~a~%" title title))
                (#f #t))
              (show name (module-ref module name)))
            %exports))
