;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; 'guix offload log' and 'stats': what the journal says of builds that are over.
(define-module (guix scripts offload journal)
  #:use-module (guix-offload)
  #:use-module (guix scripts offload endings)
  #:use-module (guix scripts offload help)
  #:use-module (ice-9 match)
  #:export (show-log
            show-stats))

(define (show-log arguments)
  "Show the last builds of this host, as ARGUMENTS, '([COUNT] [--json]), say."
  (let loop ((arguments arguments) (json? #f) (count #f))
    (match arguments
      (()
       (print-report (offload-log (make-offload-engine) (or count 20)) json?))
      (("--json" . rest)
       (loop rest #t count))
      (((or "--help" "-h") . _)
       (show-help))
      (((? (lambda (argument) (string-prefix? "-" argument)) option) . _)
       (misuse "unknown option '~a' of 'log'; see 'guix offload --help'~%" option))
      ((word . rest)
       (let ((number (string->number word)))
         (when (or count (not (and (exact-integer? number) (<= 0 number #x7fffffff))))
           (misuse "'log' takes one number of builds, not '~a'~%" word))
         (loop rest json? number))))))

(define (show-stats arguments)
  "Show what the builds of this host add up to, as ARGUMENTS, '([--json | --prometheus]), say."
  (match arguments
    (()
     (print-report (offload-stats (make-offload-engine)) #f))
    (("--json")
     (print-report (offload-stats (make-offload-engine)) #t))
    (("--prometheus")
     (print-report (offload-metrics (make-offload-engine)) #f))
    (((or "--help" "-h") . _)
     (show-help))
    (((? (lambda (argument)
           (and (string-prefix? "-" argument)
                (not (member argument '("--json" "--prometheus")))))
         option) . _)
     (misuse "unknown option '~a' of 'stats'; see 'guix offload --help'~%" option))
    (_
     (misuse "'stats' takes one of '--json' and '--prometheus'~%"))))
