;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; Compiles the installed modules for the Guile that runs this, the installed file.
;;
;; (guix scripts offload) and its parts are full of what macros of Guix expand to, so they are compiled only where Guix
;; is, and for that version of Guix: see replace.scm.
(use-modules (system base compile)
             (ice-9 match)
             ((ice-9 textual-ports) #:select (get-string-all)))

(define here (dirname (canonicalize-path (car (command-line)))))
(define modules (string-append here "/guile"))
(define compiled (string-append here "/@TO_PRIVATE_CCACHE@/" (effective-version)))
;; For whoever uses the binding.
(define site (string-append here "/@TO_SITE@/" (effective-version)))
(define site-compiled (string-append here "/@TO_CCACHE@/" (effective-version) "/site-ccache"))

;; Modules, each after those that it uses.  `make install` writes them in.
(define %binding
  (map symbol->string '(@BINDING@)))
(define %command
  (map symbol->string '(@COMMAND@)))

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

(define (time-of file)
  (let ((info (stat file)))
    (+ (* (expt 10 9) (stat:mtime info)) (stat:mtimensec info))))

(define (changed)
  "When one of the modules changed: each has macros of others in it."
  (apply max (map (lambda (name) (time-of (source name)))
                  (append %binding %command))))

;; A module does not work with what another Guile compiled of a module whose macros it uses.
(define compiler (string-append compiled "/compiled-by"))
(define same-compiler?
  (and (file-exists? compiler)
       (string=? (version) (call-with-input-file compiler get-string-all))))

(define (compile name directory)
  (let ((output (string-append directory "/" name ".go")))
    (unless (and same-compiler? (file-exists? output) (> (time-of output) (changed)))
      (make-directories (dirname output))
      (apply compile-file (source name) #:output-file output %optimizations)
      ;; Else the module has no variables yet, and Guile 2.2 would look in others for those that its macros refer to.
      (save-module-excursion (lambda () (load-compiled output))))))

(define (compile-all names directory)
  (set! %load-compiled-path (cons directory %load-compiled-path))
  (for-each (lambda (name) (compile name directory)) names))

(define (publish name)
  (let ((output (string-append site-compiled "/" name ".go"))
        (compiled (string-append compiled "/" name ".go")))
    (unless (and (file-exists? output) (> (time-of output) (time-of compiled)))
      (make-directories (dirname output))
      (copy-file compiled output))))

(set! %load-path (cons modules %load-path))
(unless same-compiler?
  (make-directories compiled)
  (call-with-output-file compiler (lambda (port) (display (version) port))))
(compile-all %binding compiled)
(when (file-exists? (string-append site "/guix-offload.scm"))
  (for-each publish %binding))
(let ((version (false-if-exception (module-ref (resolve-interface '(guix config)) '%guix-version))))
  (when version
    (compile-all %command (string-append compiled "/for-guix-" version))))
