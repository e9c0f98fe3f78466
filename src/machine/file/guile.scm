;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; Evaluates a machine file and prints its machines as plain data, which `guile.rs` describes. This is one expression,
;; which `guile` and `guix repl -t machine` read from standard input; the text of the machine file follows it there.
;; It is preceded by the definitions of %file, the name of the machine file; %guix?, whether Guix is at hand; and
;; %defaults, an alist of fields. For Guile 2.2 and 3.0, without any module of Guix.
(begin
  (use-modules (ice-9 binary-ports)
               (ice-9 regex)
               (srfi srfi-1)
               (srfi srfi-9))

  ;; Our data have a descriptor of their own: what the file prints goes to standard error. Close-on-exec, so that a
  ;; process that the file leaves behind does not hold it open.
  (define %data
    (let ((port (dup->outport 1)))
      (fcntl port F_SETFD FD_CLOEXEC)
      (set-port-encoding! port "ISO-8859-1")
      (setvbuf port 'block 65536)
      port))
  (dup2 2 1)

  ;; A place is (FILE LINE COLUMN), the line counted from 1 and the column from 0, or #f where unknown.
  (define (source-place properties)
    (let ((file (and properties (assq-ref properties 'filename)))
          (line (and properties (assq-ref properties 'line)))
          (column (and properties (assq-ref properties 'column))))
      (and file line column
           (list file (+ line 1) column))))

  ;; What is being evaluated: where an exception that knows no place of its own is said to have happened.
  (define %here #f)
  (define (at! place)
    (set! %here (or place %here)))

  ;; What the result depends on, besides the text, the environment and the working directory, so that it can be used
  ;; again while that is so. Files that are read are looked at before, lest a change while they are read is missed: each
  ;; is (NAME DEVICE INODE SIZE SECONDS), or (NAME) if there is none. (Guile 3.0.8 has no nanoseconds of that time.)
  (define %files '())
  (define %volatile? #f)

  (define (note-file! name)
    (let* ((name (if (absolute-file-name? name) name (string-append (getcwd) "/" name)))
           (state (stat name #f)))
      (unless (or (not state) (eq? 'regular (stat:type state)))
        (set! %volatile? #t))
      (set! %files
            (cons (cons name
                        (if state
                            (list (stat:dev state) (stat:ino state) (stat:size state) (stat:ctime state))
                            '()))
                  %files))))

  (define (noting procedure)
    (lambda (name . arguments)
      (when (string? name)
        (note-file! name))
      (apply procedure name arguments)))

  ;; All else that a program may depend on is not known: the time, processes, sockets, what other modules do. A file is
  ;; volatile unless each name in it is its own, or one of these, or of one of these modules.
  (define %pure-modules
    '((guile) (machine file) (guix scripts offload) (guix offload)
      (srfi srfi-1) (srfi srfi-2) (srfi srfi-8) (srfi srfi-11) (srfi srfi-13) (srfi srfi-14) (srfi srfi-26)
      (ice-9 match) (ice-9 textual-ports) (ice-9 rdelim) (ice-9 receive) (ice-9 curried-definitions)))

  (define %pure-names
    '(define define* define-module define-public define-syntax define-syntax-rule syntax-rules use-modules @ quote
      quasiquote unquote unquote-splicing lambda lambda* case-lambda let let* letrec letrec* let-syntax if cond case
      when unless and or do begin set! else => _ ... not values call-with-values
      eq? eqv? equal? boolean? symbol? string? char? number? integer? real? exact? inexact? procedure? pair? list? null?
      vector? unspecified? *unspecified* eof-object?
      cons cons* list make-list append reverse length list-ref list-tail list-head last-pair iota map for-each filter
      delete delete1! memq memv member assq assv assoc assq-ref assv-ref assoc-ref acons sort sort-list apply
      car cdr caar cadr cdar cddr caddr cdddr cadddr
      vector make-vector vector-ref vector-length vector->list list->vector
      + - * / = < > <= >= 1+ 1- quotient remainder modulo min max abs gcd lcm floor ceiling round truncate expt sqrt
      zero? positive? negative? even? odd? number->string string->number exact->inexact inexact->exact exact inexact
      string make-string string-append string-concatenate string-join string-length string-ref string-index
      string-rindex string-contains string-prefix? string-suffix? string-null? string=? string<? string>?
      string-ci=? string-split
      string-trim string-trim-right string-trim-both string-pad string-pad-right string-upcase string-downcase
      string-capitalize string-take string-drop string-take-right string-drop-right string-tokenize string-delete
      string-filter string-reverse string-map string-copy substring string->list list->string string->symbol
      symbol->string symbol-append object->string simple-format char=? char-upcase char-downcase char-alphabetic?
      char-numeric? char-whitespace? char->integer integer->char
      const identity compose negate and=> ->bool noop
      error throw catch false-if-exception
      getenv dirname basename close-port close-input-port read read-char peek-char))

  (define (pure-name? name module)
    (let ((variable (module-variable module name)))
      (define (of? other)
        (and other (eq? variable (module-variable other name))))
      (or (not variable)
          (module-local-variable module name)
          (and (memq name %pure-names) (of? the-scm-module))
          (any (lambda (pure)
                 (and (not (equal? pure '(guile)))
                      (let ((pure (resolve-module pure #f #:ensure #f)))
                        (and pure (of? (module-public-interface pure))))))
               %pure-modules))))

  (define (pure? form module)
    (define (field? form)                                   ;there is a procedure of that name
      (and (pair? form) (eq? 'system (car form))))
    (cond ((symbol? form) (pure-name? form module))
          ((vector? form) (pure? (vector->list form) module))
          ((not (pair? form)) #t)
          ((eq? '@ (car form))
           (and (pair? (cdr form)) (member (cadr form) (delete '(guile) %pure-modules)) #t))
          ((eq? 'build-machine (car form))
           (pure? (map-in-order* (lambda (form) (if (field? form) (cdr form) form)) (cdr form)) module))
          (else
           (and (pure? (car form) module) (pure? (cdr form) module)))))

  ;; As `map', for what may be no proper list.
  (define (map-in-order* proc form)
    (if (pair? form)
        (cons (proc (car form)) (map-in-order* proc (cdr form)))
        form))

  (define (pure-imports? module)
    (every (lambda (import) (member (module-name import) %pure-modules))
           (module-uses module)))

  ;; Evaluates FORM, and notes whether that can depend on what is not known.
  (define (evaluate form)
    (let ((module (current-module)))
      (unless (pure? form module)
        (set! %volatile? #t))
      (let ((value (primitive-eval form)))
        (unless (and (pure-imports? module)
                     (pure-imports? (current-module)))
          (set! %volatile? #t))
        value)))

  ;; An entry is (FIELD PLACE . VALUE). No check is made here: a machine that the file does not return may be broken.
  (define-record-type <described-machine>
    (make-described-machine place entries)
    described-machine?
    (place described-machine-place)
    (entries described-machine-entries))

  ;; The value of a field that is not of the form (FIELD VALUE).
  (define %malformed (list 'malformed))

  (define %fields
    '(name port systems system user private-key host-key compression compression-level daemon-socket
      overload-threshold parallel-builds speed features))

  ;; That of (guix scripts offload), or of whichever module has one.
  (define (guix-machine? object)
    (and (record? object)
         (memq (record-type-name (record-type-descriptor object)) '(<build-machine> build-machine))
         #t))

  (define (any-machine? object)
    (or (described-machine? object) (guix-machine? object)))

  ;; #f where there is no such field.
  (define (record-ref record field)
    (let ((type (record-type-descriptor record)))
      (and (memq field (record-type-fields type))
           (let ((value ((record-accessor type field) record)))
             (if (promise? value) (force value) value)))))

  (define (machine-place machine)
    (if (described-machine? machine)
        (described-machine-place machine)
        (let ((location (record-ref machine 'location)))
          (and (record? location)
               (let ((place (map (lambda (field) (record-ref location field)) '(file line column))))
                 (and (string? (first place)) (every exact-integer? (cdr place)) place))))))

  (define (machine-entries machine)
    (if (described-machine? machine)
        (described-machine-entries machine)
        (let ((place (machine-place machine)))
          (remove guix-default-key?
                  ;; Which fields a type has is not for the file to say: those that nobody knows are no mistakes in it.
                  (filter-map (lambda (field)
                                (and (memq field %fields)
                                     (cons* field place (record-ref machine field))))
                              (record-type-fields (record-type-descriptor machine)))))))

  ;; Guix's default key, where there is no such file: our own default may do better.
  (define (guix-default-key? entry)
    (and (eq? 'private-key (car entry))
         (equal? (cddr entry) (string-append (or (getenv "HOME") "") "/.ssh/id_rsa"))
         (begin
           (note-file! (cddr entry))
           (not (file-exists? (cddr entry))))))

  ;; As in Guix's records: the fields given prevail over those inherited, the last of a name over the others.
  (define (inherit-machine place specifier-place original entries)
    (define (overridden? entry others)
      (assq (car entry) others))
    (define own
      (let loop ((entries entries) (kept '()))
        (cond ((null? entries) (reverse kept))
              ((overridden? (car entries) (cdr entries)) (loop (cdr entries) kept))
              (else (loop (cdr entries) (cons (car entries) kept))))))
    (make-described-machine
     place
     (if (any-machine? original)
         (append (remove (lambda (entry) (overridden? entry own)) (machine-entries original)) own)
         (cons (cons* 'inherit specifier-place original) own))))

  ;; Like the constructor that Guix defines: each field is bound while the fields after it, and what is inherited,
  ;; are evaluated.
  (define-syntax build-machine
    (lambda (form)
      (define (place-of syntax)
        (or (source-place (syntax-source syntax)) (source-place (syntax-source form))))
      (define (well-formed? specifier)
        (syntax-case specifier ()
          ((field value) (identifier? #'field))
          (_ #f)))
      (define (inherit? specifier)
        (and (well-formed? specifier)
             (eq? 'inherit (car (syntax->datum specifier)))))
      (define (binding specifier)
        (syntax-case specifier ()
          ((field value)
           #`(field (begin (at! '#,(datum->syntax form (place-of specifier))) value)))))
      (define (entry specifier)
        (with-syntax ((place (datum->syntax form (place-of specifier))))
          (if (well-formed? specifier)
              (syntax-case specifier ()
                ((field _) #'(cons* 'field 'place field)))
              (with-syntax ((name (datum->syntax form (let ((datum (syntax->datum specifier)))
                                                        (if (and (pair? datum) (symbol? (car datum)))
                                                            (car datum)
                                                            (object->string datum))))))
                #'(cons* 'name 'place %malformed)))))
      (syntax-case form ()
        ((_ specifier ...)
         (let* ((specifiers #'(specifier ...))
                (original (and (pair? specifiers) (inherit? (car specifiers)) (car specifiers)))
                (fields (if original (cdr specifiers) specifiers)))
           (with-syntax ((place (datum->syntax form (place-of form)))
                         (inherit-place (datum->syntax form (and original (place-of original))))
                         ((binding ...) (map binding (filter well-formed? fields)))
                         ((entry ...) (map entry fields)))
             (syntax-case original ()
               ((_ original)
                #'(let* (binding ...)
                    (inherit-machine 'place 'inherit-place original (list entry ...))))
               (_
                #'(let* (binding ...)
                    (make-described-machine 'place (list entry ...)))))))))))

  (define build-machine? any-machine?)

  (define (machine-field machine field)
    (define (given field)
      (assq field (machine-entries machine)))
    (cond ((given field) => cddr)
          ((assq field %defaults) => cdr)
          ((and (eq? field 'systems) (given 'system)) => (lambda (entry) (list (cddr entry))))
          (else #f)))

  ;; Makes the bindings above the module that a machine file sees, and where there is no Guix, also the one that it
  ;; may import by name.
  (define (provide-bindings! module)
    (for-each (lambda (name)
                (module-add! module name (module-variable (current-module) name))
                (module-export! module (list name)))
              '(build-machine build-machine?))
    (for-each (lambda (field)
                (let ((name (symbol-append 'build-machine- field)))
                  (module-define! module name (lambda (machine) (machine-field machine field)))
                  (module-export! module (list name))))
              %fields)
    module)

  (define %plain-characters
    (char-set-delete (ucs-range->char-set 32 127) #\" #\\))

  (define (write-text text)
    (define (escape char)
      (if (char-set-contains? %plain-characters char)
          (string char)
          (string-append "\\x" (number->string (char->integer char) 16) ";")))
    (display #\" %data)
    (display (if (string-every %plain-characters text)
                 text
                 (string-concatenate (map escape (string->list text))))
             %data)
    (display #\" %data))

  (define (write-tagged tag text)
    (display "(" %data)
    (display tag %data)
    (display " " %data)
    (write-text text)
    (display ")" %data))

  (define (describe object)
    (call-with-output-string
      (lambda (port)
        ((@ (ice-9 pretty-print) truncated-print) object port #:width 60))))

  (define* (write-value value #:optional (lists? #t))
    (cond ((string? value) (write-text value))
          ((boolean? value) (display (if value "#t" "#f") %data))
          ((symbol? value) (write-tagged "symbol" (symbol->string value)))
          ((any-machine? value) (display "(a-machine)" %data))
          ((eq? value %malformed) (display "(malformed)" %data))
          ((and (integer? value) (exact? value) (< (abs value) (expt 2 62)))
           (display (number->string value) %data))
          ((real? value)
           (write-tagged "real" (number->string (exact->inexact value))))
          ;; The reader of these data wants short lists.
          ((and lists? (list? value) (<= (length value) 256))
           (display "(list" %data)
           (for-each (lambda (element)
                       (display " " %data)
                       (write-value element #f))
                     value)
           (display ")" %data))
          ((unspecified? value) (write-tagged "other" "no value"))
          ((list? value) (write-tagged "other" (format #f "a list of ~a elements" (length value))))
          (else (write-tagged "other" (describe value)))))

  (define (write-place place)
    (let ((place (or place %here)))
      (write-text (first place))
      (format %data " ~a ~a" (second place) (third place))))

  (define (write-machine machine)
    (display "(machine " %data)
    (write-place (machine-place machine))
    (for-each (lambda (entry)
                (let ((field (car entry)) (place (cadr entry)) (value (cddr entry)))
                  (display "\n (" %data)
                  (write-text (if (symbol? field) (symbol->string field) field))
                  (display " " %data)
                  (write-place (or place (machine-place machine)))
                  (display " " %data)
                  (write-value value)
                  (display ")" %data)))
              (machine-entries machine))
    (display ")\n" %data))

  (define (write-result value place)
    (define (write-wrong index value)
      (display "(wrong-result " %data)
      (write-place place)
      (format %data " ~a " index)
      (write-value value)
      (display ")\n" %data))
    (define (write-element index element)
      (if (any-machine? element)
          (write-machine element)
          (write-wrong index element)))
    (if (list? value)
        (for-each write-element (iota (length value) 1) value)
        (write-wrong 0 value))
    (for-each (lambda (file)
                (display "(file " %data)
                (write-text (car file))
                (for-each (lambda (number) (format %data " ~a" number)) (cdr file))
                (display ")\n" %data))
              %files)
    (when %volatile?
      (display "(volatile)\n" %data))
    (format %data "(end ~a)\n" (if (list? value) (length value) 1)))

  (define (write-exception key args)
    (define (write-it place message)
      (display "(exception " %data)
      (write-place place)
      (display " " %data)
      (write-text (symbol->string key))
      (display " " %data)
      (write-text (string-trim-both message))
      (display ")\n" %data))
    (define message
      (call-with-output-string
        (lambda (port) (print-exception port #f key args))))
    (cond ((and (eq? key 'syntax-error) (>= (length args) 3))
           (write-it (source-place (third args)) (second args)))
          ;; Guile's reader puts the place into the message, with the column counted from 1.
          ((and (eq? key 'read-error)
                (string-match "^(In procedure [^ ]+: )?(.*):([0-9]+):([0-9]+): (.*)$" message))
           => (lambda (parts)
                (write-it (list (match:substring parts 2)
                                (string->number (match:substring parts 3))
                                (max 0 (- (string->number (match:substring parts 4)) 1)))
                          (match:substring parts 5))))
          (else (write-it %here message))))

  ;; As `primitive-load` does it, but with the place of each form at hand.
  (define (evaluate-port port)
    (let loop ((value *unspecified*) (place %here))
      (let ((form (read port)))
        (if (eof-object? form)
            (write-result value place)
            (let ((place (or (source-place (source-properties form)) place)))
              (at! place)
              (loop (evaluate form) place))))))

  (define (evaluate-standard-input)
    (define text
      (begin
        (get-u8 (current-input-port))   ;the newline after this expression
        (let ((text (get-bytevector-all (current-input-port))))
          (if (eof-object? text) #vu8() text))))
    (define port (open-bytevector-input-port text))
    (define bindings
      (provide-bindings! (define-module* (if %guix?
                                             '(machine file)
                                             '(guix scripts offload)))))
    ;; Where Guix may move the bindings to.
    (define moved
      (or (and %guix? (false-if-exception (resolve-interface '(guix offload))))
          (provide-bindings! (define-module* '(guix offload)))))
    (define module (make-fresh-user-module))
    ;; As `primitive-load` has it for a file.
    (set-port-conversion-strategy! port 'substitute)
    (set-port-encoding! port (or (file-encoding port) "UTF-8"))
    (set-port-filename! port %file)
    (at! (list %file 1 0))
    (set! %load-hook note-file!)
    (for-each (lambda (name)
                (module-define! module name (noting (module-ref the-scm-module name))))
              '(open-input-file call-with-input-file with-input-from-file file-exists?))
    (module-use! module (module-public-interface bindings))
    (catch #t
      (lambda ()
        (save-module-excursion
         (lambda ()
           (set-current-module module)
           (evaluate-port port))))
      (lambda (key . args)
        (write-exception key args)))
    (force-output %data)
    (primitive-_exit 0))

  (evaluate-standard-input))
