;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; What calls raise that fail.
(define-module (guix-offload conditions)
  #:use-module (srfi srfi-1)
  #:use-module (srfi srfi-34)
  #:use-module (srfi srfi-35)
  #:export (&guix-offload-error
            guix-offload-error?
            guix-offload-error-code
            guix-offload-error-machine
            guix-offload-error-hint
            guix-offload-error-lines
            guix-offload-error-warning-lines
            guix-offload-error-exit-status
            offload-condition
            fail
            go-on))

(define-condition-type &guix-offload-error &error
  guix-offload-error?
  (code        guix-offload-error-code)           ;symbol
  (machine     guix-offload-error-machine)        ;string | #f
  (hint        guix-offload-error-hint)           ;string | #f
  (exit-status guix-offload-error-exit-status)    ;1 | 100 | 101, as a build hook would exit
  (lines       guix-offload-error-lines)          ;string, as a build hook would report it
  (warning     guix-offload-error-warning-lines)) ;string, as it would warn of it and go on

(for-each (lambda (procedure docstring)
            (set-procedure-property! procedure 'documentation docstring))
          (list guix-offload-error? guix-offload-error-code guix-offload-error-machine guix-offload-error-hint
                guix-offload-error-exit-status guix-offload-error-lines guix-offload-error-warning-lines)
          '("Is OBJECT a condition that says why a call failed?"
            "The kind of failure, a symbol: that of a guix_offload_status, or `library' if that cannot be loaded."
            "The name of the machine that an error is about; #f if there is none."
            "What to do about an error, a string; #f if that is not known."
            "The status with which a build hook that fails so exits: 1, 100 or 101."
            "The lines with which a build hook reports an error, a string."
            "The lines with which a build hook warns of an error and goes on, a string."))

(define (offload-condition code message machine hint status lines warning)
  (make-compound-condition
   (condition (&guix-offload-error (code code) (machine machine) (hint hint) (exit-status status)
                                   (lines lines) (warning warning)))
   (condition (&message (message message)))))

(define (fail code message hint)
  (define (lines what)
    (string-append "guix offload: " what ": " message "\n" (if hint (string-append "hint: " hint "\n") "")))
  (raise (offload-condition code message #f hint 1 (lines "error") (lines "warning"))))

(define (go-on key . args)
  "Raise again what was caught."
  ;; In Guile 3.0 this is the key of what `raise' raises, in 2.2 it is an ordinary one.
  (if (eq? key '%exception)
      (raise (first args))
      (apply throw key args)))
