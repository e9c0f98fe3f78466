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
  #:use-module (guix config)
  #:use-module (guix records)
  #:use-module (guix diagnostics)
  #:use-module (guix ui)
  #:use-module (guix scripts)
  #:use-module (guix-offload)
  #:use-module (ice-9 match)
  #:use-module (ice-9 rdelim)
  #:use-module (ice-9 regex)
  #:use-module (srfi srfi-1)
  #:use-module (srfi srfi-26)
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

;; The library's own default follows the environment alone.  Only (guix config) knows where this Guix was configured to
;; have its files.
(define %machine-file
  (string-append %config-directory "/machines.scm"))

(define (offer-this-guile!)
  "Have the library evaluate a machine file with the Guile and the modules that run here, whatever is in PATH."
  (let ((guile (false-if-exception (readlink "/proc/self/exe"))))
    ;; The program may be one that only has Guile in it.
    (when (and guile
               (string-contains (basename guile) "guile")
               (not (getenv "GUIX_OFFLOAD_GUILE")))
      (setenv "GUIX_OFFLOAD_GUILE" guile)
      (setenv "GUILE_LOAD_PATH" (string-join %load-path ":"))
      (setenv "GUILE_LOAD_COMPILED_PATH" (string-join %load-compiled-path ":")))))

(define* (machine-handles file #:key (leave-out (const #t)))
  "The machines that FILE returns, as the library has them; there are none if it does not exist.  What is wrong is said.
LEAVE-OUT is called with the condition for each machine that is left out."
  (define (say condition)
    (warning (G_ "~a~%") (condition-message condition))
    (show-hint condition))
  (offer-this-guile!)
  (offload-load-machines file
                         #:report (lambda (condition)
                                    (say condition)
                                    (leave-out condition))
                         #:warn say))

(define (distinct-machine-handles file selected?)
  "The machines in FILE whose names are SELECTED?; those that are listed again, as for another system, only once.  The
second value is true if a machine that is selected was left out."
  (define left-out? #f)
  (define (leave-out condition)
    (let ((name (guix-offload-error-machine condition)))
      (when (or (not name) (selected? name))
        (set! left-out? #t))))
  (let ((handles (machine-handles file #:leave-out leave-out)))
    (values (delete-duplicates (filter (compose selected? offload-machine-name) handles) offload-machine=?)
            left-out?)))

(define (handle->machine handle)
  "The record of a machine that the library has."
  (build-machine (name (offload-machine-name handle))
                 (port (offload-machine-port handle))
                 (systems (offload-machine-systems handle))
                 (user (offload-machine-user handle))
                 (private-key (offload-machine-private-key handle))
                 (host-key (offload-machine-host-key handle))
                 (compression (offload-machine-compression handle))
                 (compression-level (offload-machine-compression-level handle))
                 (daemon-socket (offload-machine-daemon-socket handle))
                 (overload-threshold (offload-machine-overload-threshold handle))
                 (parallel-builds (offload-machine-parallel-builds handle))
                 (speed (offload-machine-speed handle))
                 (features (offload-machine-features handle))
                 (location #f)))

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

(define* (build-machines #:optional (file %machine-file))
  "The list of build machines that FILE returns, as records."
  (with-offload-errors
   (map handle->machine (machine-handles file))))


;;;
;;; Commands.
;;;

(define-syntax-rule (misuse format argument ...)
  "Exit with an error about the command line, as distinct from one about a machine."
  (begin
    (report-error (G_ format) argument ...)
    (exit 2)))

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

(define (catch-misuse thunk)
  "Call THUNK, which reads a machine file, and exit as for a wrong command line if that is not one."
  (guard (c ((and (guix-offload-error? c)
                  (eq? 'configuration (guix-offload-error-code c)))
             (leave-with-hint c 2)))
    (thunk)))

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

(define (print-report report json?)
  "Print REPORT, for people, or if JSON? for programs.  Fail here if it cannot be written, not at the end, where nothing
says so with a status."
  (leave-on-EPIPE
   (display (if json? (offload-report-json report) (offload-report-text report)))
   (force-output)))

(define (scan arguments)
  "Describe a machine for machines.scm, as ARGUMENTS, '(HOST [USER] [OPTION ...]), say.  Return true if that is all."
  (define (value argument name)
    (and (string-prefix? name argument)
         (string-drop argument (string-length name))))
  (define (describe host user json? accepted key)
    (let ((report (guard (c ((and (guix-offload-error? c)
                                  (eq? 'invalid-argument (guix-offload-error-code c)))
                             (leave-with-hint c 2)))
                    (offload-scan-machine (make-offload-engine) host
                                          #:user user #:accepted accepted #:private-key key))))
      (print-report report json?)
      (zero? (offload-report-failures report))))
  (let loop ((arguments arguments) (words '()) (json? #f) (accepted #f) (key #f))
    (match arguments
      (()
       (match (reverse words)
         ((host)
          (describe host #f json? accepted key))
         ((host user)
          (describe host user json? accepted key))
         (()
          (misuse "'scan' takes a host; see 'guix offload --help'~%"))
         (_
          (misuse "wrong number of arguments~%"))))
      (("--json" . rest)
       (loop rest words #t accepted key))
      (((? (lambda (argument) (value argument "--accept=")) argument) . rest)
       (loop rest words json? (value argument "--accept=") key))
      (((? (lambda (argument) (value argument "--key=")) argument) . rest)
       (loop rest words json? accepted (value argument "--key=")))
      (((or "--help" "-h") . _)
       (show-help)
       #t)
      (((? (lambda (argument) (string-prefix? "-" argument)) option) . _)
       (misuse "unknown option '~a' of 'scan'; see 'guix offload --help'~%" option))
      ((word . rest)
       (loop rest (cons word words) json? accepted key)))))

(define (authorize arguments)
  "Exchange signing keys with a machine, as ARGUMENTS, '(MACHINE [--file=FILE] [--yes] [--json]), say.  Return true if
it can be used.  FILE may also follow MACHINE by itself."
  (define engine (make-offload-engine))
  (define (agreed?)
    (and (isatty? (current-input-port))
         (isatty? (current-error-port))
         (begin
           (display (G_ "Authorize both keys? [y/N] ") (current-error-port))
           (member (read-line) '("y" "yes")))))
  (define (exchange machine yes? json?)
    (let* ((report (offload-authorize-machine engine machine))
           (open? (positive? (offload-report-failures report))))
      (unless json?
        (display (offload-report-text report) (current-error-port)))
      (cond ((and open? (not yes?) json?)
             (print-report report #t)
             #f)
            ((and open? (not yes?) (not (agreed?)))
             (report-error (G_ "nothing is changed; if these are the right keys, say --yes~%"))
             #f)
            (else
             (let ((report (offload-authorize-machine engine machine #:confirmed report)))
               (print-report report json?)
               (zero? (offload-report-failures report)))))))
  (define (label machine)
    (format #f "~a:~a" (offload-machine-name machine) (offload-machine-port machine)))
  (define (leave-with-labels hint machines)
    (format (current-error-port) hint (if (null? machines) "none" (string-join (map label machines) ", ")))
    (exit 2))
  (define (find-machine name file)
    (define machines
      (delete-duplicates (catch-misuse (lambda () (machine-handles (existing file)))) offload-machine=?))
    (match (filter (lambda (machine)
                     (member name (list (offload-machine-name machine) (label machine))))
                   machines)
      ((machine)
       machine)
      (()
       (report-error (G_ "'~a' has no machine '~a'~%") file name)
       (leave-with-labels (G_ "hint: it has these: ~a~%") machines))
      (several
       (report-error (G_ "'~a' has several machines '~a'~%") file name)
       (leave-with-labels (G_ "hint: name one with its port: ~a~%") several))))
  ;; As for the other commands, there are no options after "--".
  (define-values (options words)
    (break (cut string=? "--" <>) arguments))
  (call-with-options
   (append (delete "--yes" options) words)
   (lambda (words file json?)
     (define yes?
       (->bool (member "--yes" options)))
     (match words
       ((name)
        (exchange (find-machine name (or file %machine-file)) yes? json?))
       ((name (? (lambda _ (not file)) other))
        (exchange (find-machine name other) yes? json?))
       (()
        (misuse "'authorize' takes a machine; see 'guix offload --help'~%"))
       (_
        (misuse "wrong number of arguments~%"))))))

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

(define (existing file)
  "FILE, which must be there."
  (catch 'system-error
    (lambda ()
      (stat file)
      file)
    (lambda args
      (misuse "machine file '~a': ~a~%" file (strerror (system-error-errno args))))))

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

(define (call-with-options arguments proc)
  "Call PROC with the words among ARGUMENTS, the file that --file=FILE names or #f, and whether --json is there."
  (let loop ((arguments arguments) (words '()) (file #f) (json? #f))
    (match arguments
      (()
       (proc (reverse words) file json?))
      (("--" . rest)
       (proc (append (reverse words) rest) file json?))
      (("--json" . rest)
       (loop rest words file #t))
      (((or "--help" "-h") . _)
       (show-help)
       #t)
      (((? (lambda (argument) (string-prefix? "--file=" argument)) option) . rest)
       (loop rest words (string-drop option (string-length "--file=")) json?))
      (((? (lambda (argument) (string-prefix? "-" argument)) option) . _)
       (misuse "unknown option '~a'; see 'guix offload --help'~%" option))
      ((word . rest)
       (loop rest (cons word words) file json?)))))

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

(define (show-help)
  (leave-on-EPIPE
   (format #t (G_ "Usage: guix offload SYSTEM MAX-SILENT-TIME PRINT-BUILD-TRACE? BUILD-TIMEOUT
Process build offload requests written on the standard input, possibly
offloading builds to the machines listed in '~a'.~%")
           %machine-file)
   (display (G_ "
This is what guix-daemon runs.  For people there are:

  guix offload test [FILE [REGEXP]] [--json] [--verbose]
      test the machines of FILE whose names match REGEXP; on a terminal, or with
      --verbose, say so as each machine answers
  guix offload status [FILE [REGEXP]] [--json] [--verbose] [--watch]
      show how they are doing; with --watch, again every 2 seconds, until
      interrupted
  guix offload scan HOST[:PORT] [USER] [--accept=SHA256:...] [--key=FILE] [--json]
      describe a machine for machines.scm; log in only if ssh knows its host key,
      or --accept names it
  guix offload authorize MACHINE [--file=FILE] [--yes] [--json]
      have this host and MACHINE accept what the other one signs, once you agree,
      and test it
  guix offload log [COUNT] [--json]
      show the last COUNT builds of this host that are over, 20 by default;
      0: all that are recorded
  guix offload stats [--json | --prometheus]
      show what they add up to, machine by machine
  guix offload check [FILE] [--json]
      show what is wrong in FILE, and whether guix-daemon uses this library
  guix offload drain MACHINE [--file=FILE] [--json]
      let MACHINE of FILE have no new builds
  guix offload resume MACHINE [--file=FILE] [--json]
      let it have builds again
  guix offload drained [--file=FILE] [--json]
      show which machines are drained
  guix offload explain DERIVATION | SYSTEM [FEATURE...] [--file=FILE] [--json]
      show what would become of a build now, and why

The exit status is 1 if a machine cannot be used, 2 if the command line or FILE
is wrong, or selects no machine.\n"))))

(define (show-version)
  (leave-on-EPIPE
   (format #t "guix offload: libguix_offload ~a, in Guix ~a
Copyright (C) 2026 the libguix_offload authors
License GPLv3+: GNU GPL version 3 or later <http://gnu.org/licenses/gpl.html>
This is free software: you are free to change and redistribute it.
There is NO WARRANTY, to the extent permitted by law.\n"
           (offload-version) %guix-version)))

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
