;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; Compiles installed modules for the Guile that runs this: guile compile.scm PREFIX
;;
;; (guix scripts offload) is full of what macros of Guix expand to, so it is compiled only where Guix is, and for that
;; version of Guix: see (guix-offload replace).
(use-modules (system base compile)
             (ice-9 match)
             ((ice-9 textual-ports) #:select (get-string-all)))

(define prefix
  (match (command-line)
    ((_ prefix) prefix)))
(define modules (string-append prefix "/share/guile/site/" (effective-version)))
(define compiled (string-append prefix "/lib/guile/" (effective-version) "/site-ccache"))

(define (make-directories name)
  (unless (file-exists? name)
    (make-directories (dirname name))
    (mkdir name)))

;; What takes time is the expansion of macros, not what comes after: optimizing would take 15 times as long.
(define %optimizations
  (cond-expand
    (guile-3
     '(#:optimization-level 1))
    (else
     (let ((options (append ((@ (language tree-il optimize) tree-il-default-optimization-options))
                            ((@ (language cps optimize) cps-default-optimization-options)))))
       (list #:opts (map (lambda (option) (and (keyword? option) option)) options))))))

(define (source name)
  (string-append modules "/" name ".scm"))

(define (changed)
  "When one of the modules changed: each has macros of others in it."
  (apply max (map (lambda (name) (stat:mtime (stat (source name))))
                  '("guix-offload/foreign" "guix-offload" "guix/scripts/offload"))))

;; A module does not work with what another Guile compiled of a module whose macros it uses.
(define compiler (string-append compiled "/guix-offload/compiled-by"))
(define same-compiler?
  (and (file-exists? compiler)
       (string=? (version) (call-with-input-file compiler get-string-all))))

(define (compile name output)
  (let ((output (string-append compiled "/" output ".go")))
    (unless (and same-compiler? (file-exists? output) (> (stat:mtime (stat output)) (changed)))
      (make-directories (dirname output))
      (apply compile-file (source name) #:output-file output %optimizations))))

(set! %load-path (cons modules %load-path))
(when (file-exists? modules)
  (unless same-compiler?
    (make-directories (dirname compiler))
    (call-with-output-file compiler (lambda (port) (display (version) port))))
  (compile "guix-offload/foreign" "guix-offload/foreign")
  (set! %load-compiled-path (cons compiled %load-compiled-path))
  (compile "guix-offload" "guix-offload")
  (let ((version (false-if-exception (module-ref (resolve-interface '(guix config)) '%guix-version))))
    (when version
      (compile "guix/scripts/offload" (string-append "guix-offload/for-guix-" version)))))
