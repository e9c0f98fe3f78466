;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; 'guix offload test' and 'status', which connect to all machines at once.
(define-module (guix scripts offload survey)
  #:use-module (guix diagnostics)
  #:use-module (guix ui)
  #:use-module (guix-offload)
  #:use-module (guix scripts offload endings)
  #:use-module (guix scripts offload machine-file)
  #:use-module (guix scripts offload help)
  #:use-module (ice-9 match)
  #:export (check-machine-availability
            check-machine-status
            watch-machine-status
            call-with-selection))

(define* (call-with-selected-machines file selected? doing proc #:key pattern quiet?)
  "Call PROC with an engine and the machines in FILE whose names are SELECTED?, each once, of which there must be some,
and return true if none that it returns a report on failed and none was left out.  DOING says to the user what is done
with them, unless QUIET?."
  (define engine (make-offload-engine))
  (define-values (machines left-out?)
    (catch-misuse (lambda () (distinct-machine-handles file selected?))))
  (cond
   ((pair? machines)
    (unless quiet?
      (let ((count (length machines)))
        (info (G_ "~a ~a build machine~a defined in '~a'...~%") doing count (if (= 1 count) "" "s") file)))
    (let ((report (proc engine machines)))
      (and (zero? (offload-report-failures report))
           (not left-out?))))
   (left-out?
    (report-error (G_ "no other build machine is selected~%"))
    #f)
   (pattern
    (misuse "no build machine of '~a' matches '~a'~%" file pattern))
   (else
    (misuse "'~a' has no build machine~%" file))))

(define (how-to-show-answers json? verbose? watch?)
  "A procedure that says that a machine has answered, or #f if that is not to be said."
  (and (or verbose?
           (and (isatty? (current-error-port)) (not json?) (not watch?)))
       (lambda (machine state)
         (info (G_ "~a: ~a~%") machine state)
         #t)))

(define* (check-machine-availability machine-file selected? #:key json? verbose? pattern)
  "Test the machines in MACHINE-FILE whose names are SELECTED?, which stands for PATTERN, all at once, and say what came
of it, for people, or if JSON? for programs.  Return true if all are usable."
  (call-with-selected-machines
   machine-file selected? "testing"
   (lambda (engine machines)
     (let ((report (offload-test-machines engine machines #:answered (how-to-show-answers json? verbose? #f))))
       (if json?
           (display (offload-report-json report))
           (display (offload-report-text report) (current-error-port)))
       report))
   #:pattern pattern #:quiet? json?))

(define* (check-machine-status machine-file selected? #:key json? verbose? watch? pattern again?)
  "Show how the machines in MACHINE-FILE whose names are SELECTED?, which stands for PATTERN, are doing, for people, or
if JSON? for programs.  Return true if all are reachable."
  (call-with-selected-machines
   machine-file selected? "getting status of"
   (lambda (engine machines)
     (let ((report (offload-machines-status engine machines #:answered (how-to-show-answers json? verbose? watch?))))
       (when (and watch? (not json?) (isatty? (current-output-port)))
         (display "\x1b[H\x1b[2J"))
       (print-report report json?)
       report))
   #:pattern pattern #:quiet? (or json? again?)))

(define (watch-machine-status machine-file selected? . options)
  "As above, again every 2 seconds, until interrupted."
  (let loop ((again? #f))
    (apply check-machine-status machine-file selected? #:watch? #t #:again? again? options)
    (sleep 2)
    (loop #t)))

(define* (call-with-selection arguments proc #:optional watch)
  "Call PROC, one of the above, with what ARGUMENTS, '([FILE [REGEXP]] [--json] [--verbose]), select.  With --watch,
call WATCH, if there is one, instead."
  (define (call proc names . options)
    (match names
      (()
       (apply proc (existing %machine-file) (const #t) options))
      ((file)
       (apply proc (existing file) (const #t) options))
      ((file regexp)
       (let ((rx (catch 'regular-expression-syntax
                   (lambda ()
                     (make-regexp regexp))
                   (lambda _
                     (misuse "'~a' is not a regular expression~%" regexp)))))
         (apply proc (existing file)
                (lambda (name)
                  (regexp-exec rx name))
                #:pattern regexp options)))
      (_
       (misuse "wrong number of arguments~%"))))
  (let loop ((arguments arguments) (proc proc) (json? #f) (verbose? #f) (names '()))
    (match arguments
      (()
       (call proc (reverse names) #:json? json? #:verbose? verbose?))
      (("--" . rest)
       (call proc (append (reverse names) rest) #:json? json? #:verbose? verbose?))
      (("--json" . rest)
       (loop rest proc #t verbose? names))
      (("--verbose" . rest)
       (loop rest proc json? #t names))
      (((and "--watch" (? (const watch))) . rest)
       (loop rest watch json? verbose? names))
      (((or "--help" "-h") . _)
       (show-help)
       #t)
      (((? (lambda (argument) (string-prefix? "-" argument)) option) . _)
       (misuse "unknown option '~a'; see 'guix offload --help'~%" option))
      ((name . rest)
       (loop rest proc json? verbose? (cons name names))))))
