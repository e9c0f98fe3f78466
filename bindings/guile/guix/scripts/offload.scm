;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; The command 'guix offload', done by libguix_offload.  In place of Guix's own module of that name, this one has the
;; same machines.scm, the same records, and the same commands: guix-daemon offloads through it if the directory two
;; levels up is before Guix's own modules in Guile's load path.  The 'guix' that guix-daemon runs may have its own
;; first, whatever the environment says; then one of these puts ours before them, by replace.scm:
;;
;;   GUIX_EXTENSIONS_PATH=PREFIX/share/guix/extensions   Guix 1.3.0 and later
;;   GUIX=PREFIX/libexec/guix-offload-guile              any, unless guix-daemon is started by a script that sets GUIX
;;
;; Where Guix's modules are compiled and ours are not, Guile takes those that are younger, and says so each time.
;;
;; machines.scm is read by the library, as for every other door; what needs Guile is evaluated by a child process, with
;; the Guile and the modules of this one.  For Guix 1.2.0 and later.
(define-module (guix scripts offload)
  #:use-module (guix ui)
  #:use-module (guix scripts)
  #:use-module (guix-offload)
  #:use-module (guix scripts offload arguments)
  #:use-module (guix scripts offload endings)
  #:use-module (guix scripts offload help)
  #:use-module (guix scripts offload journal)
  #:use-module (guix scripts offload local)
  #:use-module (guix scripts offload machine-file)
  #:use-module (guix scripts offload records)
  #:use-module (guix scripts offload setup)
  #:use-module (guix scripts offload survey)
  #:use-module (ice-9 match)
  #:use-module (srfi srfi-26)
  #:re-export (build-machine
               build-machine?
               build-machine-name
               build-machine-port
               build-machine-systems
               build-machine-user
               build-machine-private-key
               build-machine-host-key
               build-machine-compression
               build-machine-daemon-socket
               build-machine-overload-threshold
               build-machine-features
               build-machine-location

               build-requirements
               build-requirements?)
  #:export (guix-offload))

(define (serve max-silent-time print-build-trace? build-timeout)
  "Serve the requests of guix-daemon, whose child this process is, and return the status to exit with."
  (offer-this-guile!)
  (offload-serve-hook (make-offload-hook (make-offload-engine)
                                         #:machine-file %machine-file
                                         #:timeout build-timeout
                                         #:max-silent-time max-silent-time
                                         #:print-build-trace? print-build-trace?)
                      0 1 4))

(define (seconds text)
  (match (string->number text)
    ((? exact-integer? (? (negate negative?) number)) number)
    (_ (misuse "invalid number: ~a~%" text))))

(define-command (guix-offload . args)
  (category plumbing)
  (synopsis "set up and operate build offloading")

  ;; The daemon may have been started with somebody else's; machines.scm may look at it.
  (setenv "HOME" (home-directory))

  (match args
    (("test" . rest)
     (with-offload-errors
      (exit (call-with-selection rest check-machine-availability))))
    (("status" . rest)
     (with-offload-errors
      (exit (call-with-selection rest check-machine-status watch-machine-status))))
    (("scan" . rest)
     (with-offload-errors
      (exit (scan rest))))
    (("authorize" . rest)
     (with-offload-errors
      (exit (authorize rest))))
    (("log" . rest)
     (with-offload-errors
      (show-log rest)))
    (("stats" . rest)
     (with-offload-errors
      (show-stats rest)))
    (((? (cut assoc-ref %commands <>) command) . rest)
     (with-offload-errors
      (exit (call-with-options rest (assoc-ref %commands command)))))
    ((system max-silent-time print-build-trace? build-timeout)
     (with-offload-errors
      (exit (serve (seconds max-silent-time)
                   ;; As in Guix: the daemon says "true", and shows a trace of its own.
                   (string=? print-build-trace? "1")
                   (seconds build-timeout)))))
    (((or "--version" "-V"))
     (with-offload-errors
      (show-version)))
    (((or "--help" "-h"))
     (show-help))
    (_
     (misuse "invalid arguments: ~{~s ~}~%" args))))
