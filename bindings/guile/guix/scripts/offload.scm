;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; The command 'guix offload', done by libguix_offload.  In place of Guix's own module of that name, this one has the same
;; machines.scm, the same records, and the same commands: guix-daemon offloads through it if the directory two levels up
;; is before Guix's own modules in Guile's load path.  The 'guix' that guix-daemon runs may have its own first, whatever
;; the environment says; then one of these puts ours before them, by (guix-offload replace):
;;
;;   GUIX_EXTENSIONS_PATH=PREFIX/share/guix/extensions   Guix 1.3.0 and later
;;   GUIX=PREFIX/libexec/guix-offload-guile              any, unless guix-daemon is started by a script that sets GUIX
;;
;; Where Guix's modules are compiled and ours are not, Guile takes those that are younger, and says so each time.
;;
;; machines.scm is evaluated here, by the Guile that runs 'guix', as any program; its machines are handed to the library
;; one by one.  For Guix 1.2.0 and later.
(define-module (guix scripts offload)
  #:use-module (guix config)
  #:use-module (guix records)
  #:use-module (guix diagnostics)
  #:use-module (guix ui)
  #:use-module (guix scripts)
  #:use-module (guix-offload)
  #:use-module (ice-9 match)
  #:use-module (ice-9 regex)
  #:use-module (srfi srfi-1)
  #:use-module (srfi srfi-34)
  #:use-module (srfi srfi-35)
  #:export (build-machine
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
            build-requirements?

            guix-offload))


;;;
;;; Records.
;;;

(define (home-directory)
  "The home directory of the user whose rights this process has.  The environment may still have somebody else's."
  (passwd:dir (getpwuid (geteuid))))

(define (user-openssh-private-key)
  "The private key to log in with where a machine names none: as the library has it, the first that exists of two."
  (let ((keys (map (lambda (name)
                     (string-append (home-directory) "/.ssh/" name))
                   '("id_ed25519" "id_rsa"))))
    (or (find file-exists? keys) (first keys))))

(define-record-type* <build-machine>
  build-machine make-build-machine
  build-machine?
  (name               build-machine-name)
  (port               build-machine-port
                      (default 22))
  (systems            %build-machine-systems      ;list of strings
                      (default #f))
  (system             %build-machine-system       ;string, deprecated
                      (default #f))
  (user               build-machine-user)
  (private-key        build-machine-private-key   ;file name
                      (default (user-openssh-private-key)))
  (host-key           build-machine-host-key)     ;"ssh-ed25519 AAAA..."
  (compression        build-machine-compression
                      (default "zlib@openssh.com,zlib"))
  (compression-level  build-machine-compression-level
                      (default 3))
  (daemon-socket      build-machine-daemon-socket ;file name
                      (default "/var/guix/daemon-socket/socket"))
  (overload-threshold build-machine-overload-threshold ;real | #f
                      (default 0.8))
  (parallel-builds    build-machine-parallel-builds
                      (default 1))
  (speed              build-machine-speed         ;real
                      (default 1.0))
  (features           build-machine-features      ;list of strings
                      (default '()))
  (location           build-machine-location
                      (default (and=> (current-source-location)
                                      source-properties->location))
                      (innate)))

(define (build-machine-system machine)
  (warning (build-machine-location machine)
           (G_ "The 'system' field is deprecated, please use 'systems' instead.~%"))
  (%build-machine-system machine))

(define (build-machine-systems machine)
  "The list of systems that MACHINE builds for, given by its field 'systems' or the older 'system'."
  (cond ((%build-machine-systems machine))
        ((%build-machine-system machine)
         (list (build-machine-system machine)))
        (else
         (leave (build-machine-location machine)
                (G_ "machine '~a' has no value for its field 'systems'~%")
                (build-machine-name machine)))))

(define-record-type* <build-requirements>
  build-requirements make-build-requirements
  build-requirements?
  (system   build-requirements-system)
  (features build-requirements-features
            (default '())))

(define (machine-matches? machine requirements)
  "Does MACHINE offer the system and all the features in REQUIREMENTS?"
  (and (member (build-requirements-system requirements) (build-machine-systems machine))
       (every (lambda (feature)
                (member feature (build-machine-features machine)))
              (build-requirements-features requirements))))


;;;
;;; The machine file.
;;;

(define %machine-file
  (string-append %config-directory "/machines.scm"))

;; How long a machine file may take, in seconds, as in the library.  Guile notices between two steps of Scheme: a file
;; that is stuck in a system call is interrupted, one that computes in C is not.
(define %time-limit 30)

(define (call-with-time-limit seconds thunk too-late)
  "Call THUNK, or TOO-LATE if it takes more than SECONDS."
  (define tag (make-prompt-tag "time limit"))
  (define previous #f)
  (call-with-prompt tag
    (lambda ()
      (dynamic-wind
        (lambda ()
          (set! previous (sigaction SIGALRM (lambda (signal) (abort-to-prompt tag))))
          (alarm seconds))
        thunk
        (lambda ()
          (alarm 0)
          (sigaction SIGALRM (car previous) (cdr previous)))))
    (lambda (continuation)
      (too-late))))

(define (fresh-machine-module)
  "A module in which a machine file can be evaluated."
  (let ((module (make-fresh-user-module)))
    (module-use! module (resolve-interface '(guix scripts offload)))
    module))

(define (evaluate file)
  "What FILE returns.  What it prints goes to standard error: standard output is for the daemon."
  (save-module-excursion
   (lambda ()
     (set-current-module (fresh-machine-module))
     (with-output-to-port (current-error-port)
       (lambda ()
         (primitive-load file))))))

(define (with-output-to-port port thunk)
  (parameterize ((current-output-port port))
    (thunk)))

(define* (build-machines #:optional (file %machine-file) #:key (time-limit %time-limit))
  "The list of build machines that FILE returns, within TIME-LIMIT seconds; there are none if it does not exist."
  (match (catch #t
           (lambda ()
             (call-with-time-limit time-limit
               (lambda () (evaluate file))
               (lambda ()
                 (leave (G_ "failed to load machine file '~a': ~a~%") file
                        (format #f "it takes longer than ~a seconds" time-limit)))))
           (lambda (key . args)
             (explain-failure file key args)))
    (((? build-machine? machines) ...)
     machines)
    (_
     (warning (G_ "'~a' did not return a list of build machines; ignoring it~%") file)
     '())))

(define (explain-failure file key args)
  "Exit with an error that says why FILE could not be evaluated; but one that does not exist has no machines."
  (define (because)
    (string-trim-both
     (call-with-output-string
       (lambda (port)
         (print-exception port #f key args)))))
  (match (cons key args)
    (('quit . _)
     (apply throw key args))
    (('system-error . _)
     (let ((errno (system-error-errno (cons key args))))
       (if (and (= errno ENOENT) (not (file-exists? file)))
           '()
           (leave (G_ "failed to open machine file '~a': ~a~%") file (because)))))
    (('syntax-error _ message properties . _)
     (leave (source-properties->location* file properties) (G_ "~a~%") message))
    (_
     (leave (G_ "failed to load machine file '~a': ~a~%") file (because)))))

(define (source-properties->location* file properties)
  (if (and (list? properties) (assq 'line properties) (assq 'column properties))
      (location (or (assq-ref properties 'filename) file)
                (+ 1 (assq-ref properties 'line))
                (assq-ref properties 'column))
      (location file 1 0)))


;;;
;;; From records to the library.
;;;

(define (machine->handle machine)
  "MACHINE as the library has it.  What is wrong with it is an error at its place in the machine file."
  (define (field name accessor type? expected)
    (let ((value (accessor machine)))
      (unless (type? value)
        (leave (build-machine-location machine)
               (G_ "machine ~s, field '~a': expected ~a, got ~s~%")
               (build-machine-name machine) name expected value))
      value))
  (define (strings? value)
    (and (list? value) (every string? value)))
  (define (natural? value)
    (and (integer? value) (exact? value) (<= 0 value 4294967295)))
  (define (load? value)
    (or (not value) (and (real? value) (>= value 0))))
  (guard (c ((and (guix-offload-error? c)
                  (memq (guix-offload-error-code c) '(invalid-argument configuration)))
             (leave-with-hint (build-machine-location machine) c)))
    (make-machine (field 'name build-machine-name string? "a string")
                  (field 'user build-machine-user string? "a string")
                  (field 'host-key build-machine-host-key string? "a string")
                  #:systems (field 'systems build-machine-systems strings? "a list of strings")
                  #:features (field 'features build-machine-features strings? "a list of strings")
                  #:port (field 'port build-machine-port natural? "a number from 1 to 65535")
                  #:private-key (field 'private-key build-machine-private-key string? "a file name")
                  #:compression (field 'compression build-machine-compression string? "a string")
                  #:compression-level (field 'compression-level build-machine-compression-level natural?
                                             "a number from 0 to 9")
                  #:daemon-socket (field 'daemon-socket build-machine-daemon-socket string? "a file name")
                  #:parallel-builds (field 'parallel-builds build-machine-parallel-builds natural? "a number")
                  #:speed (field 'speed build-machine-speed real? "a number")
                  #:overload-threshold (field 'overload-threshold build-machine-overload-threshold load?
                                              "a number that is not negative, or #f"))))

(define (machine-handles file pred)
  "The machines in FILE that satisfy PRED, as the library has them."
  (map machine->handle (filter pred (build-machines file))))

(define (distinct-machine-handles file pred)
  "As `machine-handles', with those that are listed again, as for another system, only once."
  (define (same? one other)
    (and (equal? (build-machine-name one) (build-machine-name other))
         (equal? (build-machine-port one) (build-machine-port other))))
  (map machine->handle (delete-duplicates (filter pred (build-machines file)) same?)))

(define (leave-with-hint location condition)
  "Exit with what the library says in CONDITION, about LOCATION if that is not #f, as a build hook would."
  (report-error location (G_ "~a~%") (condition-message condition))
  (when (guix-offload-error-hint condition)
    (format (current-error-port) (G_ "hint: ~a~%") (guix-offload-error-hint condition)))
  (exit (guix-offload-error-exit-status condition)))

(define-syntax-rule (with-offload-errors exp ...)
  "Evaluate EXP..., and exit with what the library says, and its hint, if it fails."
  (call-with-offload-errors (lambda () exp ...)))

(define (call-with-offload-errors thunk)
  (with-error-handling
    (guard (c ((guix-offload-error? c)
               (leave-with-hint #f c)))
      (thunk))))


;;;
;;; Commands.
;;;

(define-syntax-rule (misuse format argument ...)
  "Exit with an error about the command line, as distinct from one about a machine."
  (begin
    (report-error (G_ format) argument ...)
    (exit 2)))

(define* (selected-machines file pred doing #:key pattern quiet?)
  "The machines in FILE that satisfy PRED, each once, of which there must be some.  DOING says to the user what is done
with them, unless QUIET?."
  (define machines (distinct-machine-handles file pred))
  (match machines
    (()
     (if pattern
         (misuse "no build machine of '~a' matches '~a'~%" file pattern)
         (misuse "'~a' has no usable build machine~%" file)))
    ((_ ...)
     (unless quiet?
       (let ((count (length machines)))
         (info (G_ "~a ~a build machine~a defined in '~a'...~%") doing count (if (= 1 count) "" "s") file)))
     machines)))

(define* (check-machine-availability machine-file pred #:key json? pattern)
  "Test the machines in MACHINE-FILE that satisfy PRED, which stands for PATTERN, all at once, and say what came of it,
for people, or if JSON? for programs.  Return true if all are usable."
  (let* ((machines (selected-machines machine-file pred "testing" #:pattern pattern #:quiet? json?))
         (report (test-machines (make-engine) machines)))
    (if json?
        (display (report-json report))
        (display (report-text report) (current-error-port)))
    (zero? (report-failures report))))

(define* (check-machine-status machine-file pred #:key json? pattern)
  "Show how the machines in MACHINE-FILE that satisfy PRED, which stands for PATTERN, are doing, for people, or if JSON?
for programs.  Return true if all are reachable."
  (let* ((machines (selected-machines machine-file pred "getting status of" #:pattern pattern #:quiet? json?))
         (report (machines-status (make-engine) machines)))
    (display (if json? (report-json report) (report-text report)))
    (zero? (report-failures report))))

(define (call-with-selection arguments proc)
  "Call PROC, one of the above, with what ARGUMENTS, '([FILE [REGEXP]] [--json]), select."
  (define (existing file)
    (catch 'system-error
      (lambda ()
        (stat file)
        file)
      (lambda args
        (misuse "machine file '~a': ~a~%" file (strerror (system-error-errno args))))))
  (define (call json? names)
    (match names
      (()
       (proc (existing %machine-file) (const #t) #:json? json?))
      ((file)
       (proc (existing file) (const #t) #:json? json?))
      ((file regexp)
       (let ((rx (catch 'regular-expression-syntax
                   (lambda ()
                     (make-regexp regexp))
                   (lambda _
                     (misuse "'~a' is not a regular expression~%" regexp)))))
         (proc (existing file)
               (lambda (machine)
                 (regexp-exec rx (build-machine-name machine)))
               #:json? json? #:pattern regexp)))
      (_
       (misuse "wrong number of arguments~%"))))
  (let loop ((arguments arguments) (json? #f) (names '()))
    (match arguments
      (()
       (call json? (reverse names)))
      (("--" . rest)
       (call json? (append (reverse names) rest)))
      (("--json" . rest)
       (loop rest #t names))
      (((or "--help" "-h") . _)
       (show-help)
       #t)
      (((? (lambda (argument) (string-prefix? "-" argument)) option) . _)
       (misuse "unknown option '~a'; see 'guix offload --help'~%" option))
      ((name . rest)
       (loop rest json? (cons name names))))))

(define (show-help)
  (leave-on-EPIPE
   (format #t (G_ "Usage: guix offload SYSTEM MAX-SILENT-TIME PRINT-BUILD-TRACE? BUILD-TIMEOUT
Process build offload requests written on the standard input, possibly
offloading builds to the machines listed in '~a'.~%")
           %machine-file)
   (display (G_ "
This is what guix-daemon runs.  For people there are:

  guix offload test [FILE [REGEXP]] [--json]
      test the machines of FILE whose names match REGEXP
  guix offload status [FILE [REGEXP]] [--json]
      show how they are doing

The exit status is 1 if a machine cannot be used, 2 if the command line is wrong.\n"))))

(define (show-version)
  (leave-on-EPIPE
   (format #t "guix offload: libguix_offload ~a, in Guix ~a
License GPLv3+: GNU GPL version 3 or later <http://gnu.org/licenses/gpl.html>
This is free software: you are free to change and redistribute it.
There is NO WARRANTY, to the extent permitted by law.\n"
           (offload-version) %guix-version)))

(define (serve max-silent-time print-build-trace? build-timeout)
  "Serve the requests of guix-daemon, whose child this process is, and return the status to exit with."
  ;; A hook that gets no request need not know the machines.
  (select '(0) '() '())
  (serve-build-hook (make-build-hook (make-engine)
                                     #:machine-file %machine-file
                                     #:evaluate (lambda (file)
                                                  (machine-handles file (const #t)))
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
      (exit (call-with-selection rest check-machine-status))))
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
