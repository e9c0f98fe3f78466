;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; What the commands say at their end, and the statuses that they exit with.
(define-module (guix scripts offload endings)
  #:use-module (guix diagnostics)
  #:use-module (guix ui)
  #:use-module (guix-offload)
  #:use-module (srfi srfi-34)
  #:use-module (srfi srfi-35)
  #:export (show-hint
            leave-with-hint
            with-offload-errors
            call-with-offload-errors
            misuse
            catch-misuse
            print-report))

(define (show-hint condition)
  (when (guix-offload-error-hint condition)
    (format (current-error-port) (G_ "hint: ~a~%") (guix-offload-error-hint condition))))

(define* (leave-with-hint condition #:optional (status (guix-offload-error-exit-status condition)))
  "Exit with what the library says in CONDITION, and STATUS, by default that of a build hook."
  (report-error (G_ "~a~%") (condition-message condition))
  (show-hint condition)
  (exit status))

(define-syntax-rule (with-offload-errors exp ...)
  "Evaluate EXP..., and exit with what the library says, and its hint, if it fails."
  (call-with-offload-errors (lambda () exp ...)))

(define (call-with-offload-errors thunk)
  (with-error-handling
    (guard (c ((guix-offload-error? c)
               (leave-with-hint c)))
      (thunk))))

(define-syntax-rule (misuse format argument ...)
  "Exit with an error about the command line, as distinct from one about a machine."
  (begin
    (report-error (G_ format) argument ...)
    (exit 2)))

(define (catch-misuse thunk)
  "Call THUNK, which reads a machine file, and exit as for a wrong command line if that is not one."
  (guard (c ((and (guix-offload-error? c)
                  (eq? 'configuration (guix-offload-error-code c)))
             (leave-with-hint c 2)))
    (thunk)))

(define (print-report report json?)
  "Print REPORT, for people, or if JSON? for programs.  Fail here if it cannot be written, not at the end, where nothing
says so with a status."
  (leave-on-EPIPE
   (display (if json? (offload-report-json report) (offload-report-text report)))
   (force-output)))
