;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; What is asked of machines, of the keeper and of the journal: each answers with a report.
(define-module (guix-offload farm)
  #:use-module (guix-offload handles)
  #:use-module (guix-offload arguments)
  #:use-module (guix-offload foreign)
  #:use-module (guix-offload cancellation)
  #:use-module (guix-offload machines)
  #:use-module (guix-offload reports)
  #:use-module (system foreign)
  #:export (offload-test-machines
            offload-machines-status
            offload-drain-machine!
            offload-resume-machine!
            offload-drained-machines
            offload-check-machine-file
            offload-explain-build
            offload-keeper-status
            offload-stop-keeper!
            offload-scan-machine
            offload-authorize-machine
            offload-log
            offload-stats
            offload-metrics))

(define-foreign farm-test int "guix_offload_farm_test_each"
  'out 'engine 'machines 'callback 'data '(maybe cancellation) 'out)
(define-foreign farm-status int "guix_offload_farm_status_each"
  'out 'engine 'machines 'callback 'data '(maybe cancellation) 'out)
(define-foreign farm-drain int "guix_offload_farm_drain" 'out 'engine 'machines 'string 'out)
(define-foreign farm-resume int "guix_offload_farm_resume" 'out 'engine 'machines 'string 'out)
(define-foreign farm-drained int "guix_offload_farm_drained" 'out 'engine 'machines 'out)
(define-foreign farm-explain int "guix_offload_farm_explain" 'out 'engine 'machines 'string '(maybe string) 'out)
(define-foreign farm-check int "guix_offload_farm_check" 'out 'engine 'machines 'out)
(define-foreign keeper-inspect int "guix_offload_keeper_status" 'out 'engine 'out)
(define-foreign keeper-stop int "guix_offload_keeper_stop" 'engine 'out 'out)
(define-foreign scan int "guix_offload_scan_cancellable"
  'out 'engine 'string '(maybe string) '(maybe string) '(maybe string) '(maybe cancellation) 'out)
(define-foreign authorize int "guix_offload_authorize_cancellable"
  'out 'engine 'machine '(maybe report) '(maybe cancellation) 'out)
(define-foreign journal-log int "guix_offload_journal_log" 'out 'engine size_t 'out)
(define-foreign journal-stats int "guix_offload_journal_stats" 'out 'engine 'out)
(define-foreign journal-metrics int "guix_offload_journal_metrics" 'out 'engine 'out)

(define (call-for-report procedure engine machines answered cancellation)
  (define (ask answered)
    (call-with-machines machines
      (lambda (machines)
        (call-stoppably (lambda (cancellation)
                          (call-for-handle 'report report-free procedure engine machines answered #f cancellation))
                        cancellation))))
  (if answered
      (with-callback (list '* '* '*)
                     (lambda (data machine state)
                       (answered (pointer->text machine) (pointer->text state)))
                     ask)
      (ask #f)))

(define (call-for-report-on procedure engine machines . arguments)
  (call-with-machines machines
    (lambda (machines)
      (apply call-for-handle 'report report-free procedure engine machines arguments))))

(define-typed (offload-test-machines engine machines #:key answered cancellation)
  "Test all MACHINES at once, and return a report.  ANSWERED, if not #f, is called with the name and the state of each
machine as soon as its test is over; it cancels by returning #f."
  ((engine 'engine) (machines (list-of 'machine)) (answered (maybe 'procedure)) (cancellation (maybe 'cancellation)))
  (call-for-report farm-test engine machines answered cancellation))

(define-typed (offload-machines-status engine machines #:key answered cancellation)
  "Ask all MACHINES at once how they are doing, and return a report.  ANSWERED is as for `offload-test-machines'."
  ((engine 'engine) (machines (list-of 'machine)) (answered (maybe 'procedure)) (cancellation (maybe 'cancellation)))
  (call-for-report farm-status engine machines answered cancellation))

(define-typed (offload-drain-machine! engine machines name)
  "Let the one of MACHINES that is called NAME, or NAME:PORT, have no new builds, and return a report on it."
  ((engine 'engine) (machines (list-of 'machine)) (name 'string))
  (call-for-report-on farm-drain engine machines name))

(define-typed (offload-resume-machine! engine machines name)
  "Let the one of MACHINES that is called NAME, or NAME:PORT, have builds again, and return a report on it."
  ((engine 'engine) (machines (list-of 'machine)) (name 'string))
  (call-for-report-on farm-resume engine machines name))

(define-typed (offload-drained-machines engine machines)
  "Return a report on those of MACHINES that are drained."
  ((engine 'engine) (machines (list-of 'machine)))
  (call-for-report-on farm-drained engine machines))

(define-typed (offload-check-machine-file engine #:optional file)
  "Return a report on what is wrong in the machine file FILE, by default the one that Guix reads, and on whether
guix-daemon uses this library."
  ((engine 'engine) (file (maybe 'string)))
  (let* ((machines (load-machines file #f))
         (report (call-for-handle 'report report-free farm-check engine machines)))
    (offload-free! machines)
    report))

(define-typed (offload-explain-build engine machines what #:key (features '()))
  "Return a report on what would become of a build of WHAT, a derivation, or a system type of which FEATURES are needed
besides; and on what counts for and against each of MACHINES."
  ((engine 'engine) (machines (list-of 'machine)) (what 'string) (features (list-of 'string)))
  (call-for-report-on farm-explain engine machines what (string-join features ",")))

(define-typed (offload-keeper-status engine)
  "Ask the keeper what it is doing, and return a report on no machine."
  ((engine 'engine))
  (call-for-handle 'report report-free keeper-inspect engine))

(define-typed (offload-stop-keeper! engine)
  "Have the keeper end once its builds are done.  Return #f if none is running."
  ((engine 'engine))
  (= 1 (call-for-integer keeper-stop engine)))

(define-typed (offload-scan-machine engine host #:key user accepted private-key cancellation)
  "Return a report on HOST, \"NAME\" or \"NAME:PORT\", which no machine file has yet.  Its text is a form for that file.
Log in as USER, root if that is #f, but only if ssh knows the host key, or ACCEPTED is its fingerprint."
  ((engine 'engine) (host 'string) (user (maybe 'string)) (accepted (maybe 'string)) (private-key (maybe 'string))
   (cancellation (maybe 'cancellation)))
  (call-stoppably (lambda (cancellation)
                    (call-for-handle 'report report-free scan engine host user accepted private-key cancellation))
                  cancellation))

(define-typed (offload-authorize-machine engine machine #:key confirmed cancellation)
  "Return a report on MACHINE, the text of which has its signing key and that of this host.  It fails unless each of the
two accepts what the other one signs.  If CONFIRMED is such a report, see to that for the keys in it, and test MACHINE."
  ((engine 'engine) (machine 'machine) (confirmed (maybe 'report)) (cancellation (maybe 'cancellation)))
  (call-stoppably (lambda (cancellation)
                    (call-for-handle 'report report-free authorize engine machine confirmed cancellation))
                  cancellation))

(define-typed (offload-log engine #:optional (count 0))
  "Return a report on no machine: the last COUNT builds of this host that are over; if that is 0, all of its journal."
  ((engine 'engine) (count size_t))
  (call-for-handle 'report report-free journal-log engine count))

(define-typed (offload-stats engine)
  "Return a report on no machine: what the builds of this host add up to, machine by machine."
  ((engine 'engine))
  (call-for-handle 'report report-free journal-stats engine))

(define-typed (offload-metrics engine)
  "Return a report on no machine, the text of which has what `offload-stats' says, for Prometheus."
  ((engine 'engine))
  (call-for-handle 'report report-free journal-metrics engine))
