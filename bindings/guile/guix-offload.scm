;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; Build offloading for GNU Guix, from Guile: a binding of guix-offload.h, which is the manual, with handles that are
;; freed when they are garbage, or by `offload-free!', and conditions of type &guix-offload-error instead of statuses.
;;
;; Arguments of a wrong type raise such a condition too, with the code `invalid-argument', and do nothing.
;;
;; A handle is for one thread at a time unless the header says otherwise.  A call that blocks is made by another thread,
;; while the caller's waits and handles signals; if a handler does not return, as that of Ctrl-C at a REPL, the call is
;; cancelled, and so are others with the same cancellation or connection.  Functions given as #:progress and #:log are
;; called by the other thread, and cancel by returning #f.
;;
;; Users need no other module: those below guix-offload/, one for each topic, may change.
(define-module (guix-offload)
  #:use-module (guix-offload conditions)
  #:use-module (guix-offload arguments)
  #:use-module (guix-offload foreign)
  #:use-module (guix-offload cancellation)
  #:use-module (guix-offload machines)
  #:use-module (guix-offload engine)
  #:use-module (guix-offload request)
  #:use-module (guix-offload verbs)
  #:use-module (guix-offload jobs)
  #:use-module (guix-offload hook)
  #:use-module (guix-offload reports)
  #:use-module (guix-offload farm)
  #:re-export (offload-free!
               &guix-offload-error
               guix-offload-error?
               guix-offload-error-code
               guix-offload-error-machine
               guix-offload-error-hint
               guix-offload-error-lines
               guix-offload-error-warning-lines
               guix-offload-error-exit-status

               offload-version

               make-offload-machine offload-machine?
               offload-machine-name offload-machine-port offload-machine-user offload-machine-private-key
               offload-machine-host-key offload-machine-compression
               offload-machine-compression-level offload-machine-daemon-socket offload-machine-parallel-builds
               offload-machine-speed
               offload-machine-overload-threshold offload-machine-systems offload-machine-features
               offload-machine=? offload-load-machines

               make-offload-engine offload-engine? offload-engine-directory offload-engine-idle-limit
               make-offload-request offload-request? offload-request-matches offload-request-add-closure!
               offload-request-lock-outputs!
               offload-request-system offload-request-derivation offload-request-inputs offload-request-outputs

               make-offload-cancellation offload-cancellation? offload-cancel!

               offload-choose
               offload-lease? offload-lease-connection
               offload-connect
               offload-connection? offload-connection-machine
               offload-send
               offload-build
               offload-retrieve

               offload-start-job offload-job?
               offload-job-descriptor offload-job-wait offload-job-cancel! offload-job-result
               offload-job-next-event offload-job-machine

               offload-event?
               offload-event-kind offload-event-machine offload-event-items offload-event-bytes offload-event-text
               offload-event-hint offload-event-lines

               make-offload-hook offload-hook?
               offload-serve-hook

               offload-test-machines
               offload-machines-status
               offload-drain-machine! offload-resume-machine! offload-drained-machines
               offload-explain-build offload-check-machine-file
               offload-keeper-status
               offload-stop-keeper!
               offload-scan-machine
               offload-authorize-machine
               offload-log
               offload-stats
               offload-metrics
               offload-report? offload-report-text offload-report-json offload-report-failures offload-report->list

               offload-machine-report?
               offload-machine-report-machine
               offload-machine-report-state
               offload-machine-report-reachable?
               offload-machine-report-error
               offload-machine-report-passed
               offload-machine-report-notes
               offload-machine-report-slots-taken
               offload-machine-report-load
               offload-machine-report-cores
               offload-machine-report-free-space
               offload-machine-report-clock-difference
               offload-machine-report-guix-version
               offload-machine-report-kernel
               offload-machine-report-architecture
               offload-machine-report-host-name))
