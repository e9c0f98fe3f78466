;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; The commands that connect to no machine: 'guix offload check', 'drain', 'resume', 'drained' and 'explain'.
(define-module (guix scripts offload local)
  #:use-module (guix-offload)
  #:use-module (guix scripts offload endings)
  #:use-module (guix scripts offload machine-file)
  #:use-module (ice-9 match)
  #:use-module (srfi srfi-34)
  #:export (%commands))

(define* (call-for-report file json? proc #:key (load machine-handles))
  "Print the report that PROC returns for an engine and what LOAD returns for FILE, or for the file that Guix reads, and
return true if it has no failures."
  (define machines
    (catch-misuse (lambda () (load (existing (or file %machine-file))))))
  (define report
    (guard (c ((and (guix-offload-error? c)
                    (memq (guix-offload-error-code c) '(invalid-argument configuration)))
               (leave-with-hint c 2)))
      (proc (make-offload-engine) machines)))
  (print-report report json?)
  (zero? (offload-report-failures report)))

(define (mark-machine mark)
  "The command that has MARK done to a machine."
  (match-lambda*
    (((name) file json?)
     (call-for-report file json? (lambda (engine machines)
                                   (mark engine machines name))))
    (_
     (misuse "wrong number of arguments~%"))))

(define show-drained
  (match-lambda*
    ((() file json?)
     (call-for-report file json? offload-drained-machines))
    (_
     (misuse "wrong number of arguments~%"))))

(define check
  (let ((run (lambda (file json?)
               (call-for-report file json? offload-check-machine-file
                                #:load (lambda (file)
                                         (offer-this-guile!)
                                         file)))))
    (match-lambda*
      ((() file json?)
       (run file json?))
      (((file) #f json?)
       (run file json?))
      (_
       (misuse "wrong number of arguments~%")))))

(define explain
  (match-lambda*
    (((what . features) file json?)
     (call-for-report file json? (lambda (engine machines)
                                   (offload-explain-build engine machines what #:features features))))
    (_
     (misuse "wrong number of arguments~%"))))

;; Commands that connect to no machine: the name of each, and the procedure that call-with-options calls.
(define %commands
  `(("check" . ,check)
    ("drain" . ,(mark-machine offload-drain-machine!))
    ("resume" . ,(mark-machine offload-resume-machine!))
    ("drained" . ,show-drained)
    ("explain" . ,explain)))
