;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; Tests of (guix-offload) that need the library, but neither Guix nor another machine.  With the directory above in the
;; load path, GUIX_OFFLOAD_LIBRARY set, and the header's name as argument: guile binding.scm HEADER
(load "runner.scm")
(use-modules (guix-offload)
             ((guix-offload arguments) #:select (signatures))
             ((guix-offload foreign) #:select (name-of))
             ((guix-offload handles) #:select (make-handle))
             ((guix-offload verbs) #:select (reply-name))
             ((system foreign) #:select (make-pointer))
             (ice-9 ftw)
             (ice-9 match)
             (ice-9 rdelim)
             (ice-9 regex)
             (ice-9 textual-ports)
             (rnrs bytevectors)
             (srfi srfi-1)
             (srfi srfi-11)
             (srfi srfi-34)
             (srfi srfi-35))

(define %key
  "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiI")
(define %derivation
  "/gnu/store/0123456789abcdfghijklmnpqrsvwxyz-x.drv")
(define %directory
  (let ((name (string-append (or (getenv "TMPDIR") "/tmp") "/guix-offload-guile-" (number->string (getpid)))))
    (mkdir name)
    name))

(define (in-directory name)
  (string-append %directory "/" name))

(define (write-file name text)
  (call-with-output-file (in-directory name)
    (lambda (port) (display text port)))
  (in-directory name))

(define-syntax-rule (failure exp ...)
  "The condition that EXP... raises."
  (guard (c ((guix-offload-error? c) c))
    exp ...
    #f))

(define (away)
  "A machine to which nobody answers."
  (make-offload-machine "127.0.0.1" "root" %key #:port 1 #:systems '("x86_64-linux") #:parallel-builds 3
                        #:private-key (write-file "id" "")))

(define (write-private-key)
  "A private key that nobody has: as it is, the machine it is for need not even be asked."
  (let ((file (in-directory "silent")))
    (unless (file-exists? file)
      (system* "ssh-keygen" "-q" "-t" "ed25519" "-N" "" "-f" file))
    file))

(define (with-signing-key thunk)
  "Call THUNK while this host has a signing key."
  (dynamic-wind
    (lambda () (write-file "signing-key.pub" "(public-key (ecc (curve Ed25519) (q #AB#)))"))
    thunk
    (lambda () (delete-file (in-directory "signing-key.pub")))))

(define engine
  (make-offload-engine #:state %directory #:configuration %directory #:daemon-socket (in-directory "socket")
                       #:idle-limit 5))

(test-begin "binding")

(test-assert "every function of the header is bound"
  (let* ((directory (dirname (search-path %load-path "guix-offload/foreign.scm")))
         (text (lambda (file) (call-with-input-file file get-string-all)))
         (bound (string-concatenate
                 (map (lambda (name) (text (string-append directory "/" name)))
                      (scandir directory (lambda (name) (string-suffix? ".scm" name))))))
         (functions (map (lambda (match) (match:substring match 1))
                         (list-matches "(guix_offload_[a-z_]+)\\(" (text (second (command-line))))))
         (unbound (remove (lambda (name)
                            (or (string-contains bound (string-append "\"" name "\""))
                                ;; What can do more does the same.
                                (string-contains bound (string-append "\"" name "_cancellable\""))
                                (string-contains bound (string-append "\"" name "_explained\""))
                                (string-contains bound (string-append "\"" name "_each\""))
                                ;; The manual names functions too; and these a list of Scheme needs not.
                                (member name '("guix_offload_items_count"
                                              "guix_offload_machines_count"
                                "guix_offload_request_input_count"
                                "guix_offload_request_output_count"
                                "guix_offload_refusals_count"
                                              "guix_offload_machines_file"
                                              "guix_offload_engine_set_listener" ;no thread of ours runs Scheme
                                              "guix_offload_keeper_serve")))) ;for the program that is started
                          (delete-duplicates functions))))
    (for-each (lambda (name) (format #t "not bound: ~a~%" name)) unbound)
    (and (> (length functions) 100) (null? unbound))))

(test-equal "without a keeper there is nothing to stop, and that is no failure"
  '("no keeper is running\n" "{\"schema\": 1, \"machines\": [], \"keeper\": null}\n" () #f)
  (let ((report (offload-keeper-status engine)))
    (list (offload-report-text report) (offload-report-json report) (offload-report->list report)
          (offload-stop-keeper! engine))))

(test-equal "a machine that has answered is told of, and whoever is told can end it"
  '(("127.0.0.1" "misconfigured") cancelled)
  (let ((told #f))
    (offload-machines-status engine (list (away)) #:answered (lambda (name state) (set! told (list name state)) #t))
    (list told (guix-offload-error-code (failure (offload-test-machines engine (list (away)) #:answered (const #f)))))))

(test-equal "a machine that does not answer cannot be scanned"
  '(unavailable invalid-argument)
  (list (guix-offload-error-code (failure (offload-scan-machine engine "127.0.0.1:1" #:user "u")))
        (guix-offload-error-code (failure (offload-scan-machine engine "a b")))))

(test-equal "without a signing key, none can be exchanged"
  '(store invalid-argument)
  (list (guix-offload-error-code (failure (offload-authorize-machine engine (away))))
        (guix-offload-error-code (failure (offload-authorize-machine engine (away)
                                                                     #:confirmed (offload-keeper-status engine))))))

(test-equal "before the first build, the journal is empty"
  '("no build is recorded\n" "{\"schema\":1,\"builds\":[]}\n" "no build is recorded\n" 0)
  (list (offload-report-text (offload-log engine)) (offload-report-json (offload-log engine 3))
        (offload-report-text (offload-stats engine))
        (string-contains (offload-report-text (offload-metrics engine)) "# HELP guix_offload_")))

(test-assert "the library has a version"
  (string-match "^[0-9]+\\.[0-9]+\\.[0-9]+$" (offload-version)))

(test-equal "a machine has what it was given, and defaults"
  '("m" 2222 "u" "ssh-ed25519" "/k" "none" 9 "/s" 5 2.5 #f ("a" "b") ("kvm" "größer"))
  (let ((m (make-offload-machine "m" "u" %key #:port 2222 #:private-key "/k" #:compression "none" #:compression-level 9
                                 #:daemon-socket "/s" #:parallel-builds 5 #:speed 2.5 #:overload-threshold #f
                                 #:systems '("a" "b") #:features '("kvm" "größer"))))
    (list (offload-machine-name m) (offload-machine-port m) (offload-machine-user m)
          (first (string-split (offload-machine-host-key m) #\space)) (offload-machine-private-key m)
          (offload-machine-compression m)
          (offload-machine-compression-level m) (offload-machine-daemon-socket m) (offload-machine-parallel-builds m)
          (offload-machine-speed m)
          (offload-machine-overload-threshold m) (offload-machine-systems m) (offload-machine-features m))))

(test-equal "what is not given is Guix's default"
  '(22 "zlib@openssh.com,zlib" 3 "/var/guix/daemon-socket/socket" 1 1.0 0.8 () ())
  (let ((m (make-offload-machine "m" "u" %key)))
    (list (offload-machine-port m) (offload-machine-compression m) (offload-machine-compression-level m)
          (offload-machine-daemon-socket m)
          (offload-machine-parallel-builds m) (offload-machine-speed m) (offload-machine-overload-threshold m)
          (offload-machine-systems m)
          (offload-machine-features m))))

(test-equal "an error is a condition with a message"
  '(invalid-argument "m" 1 #t)
  (let ((c (failure (make-offload-machine "m" "u" %key #:port 0))))
    (list (guix-offload-error-code c) (guix-offload-error-machine c) (guix-offload-error-exit-status c)
          (and (message-condition? c) (string-contains (condition-message c) "'port'") #t))))

(test-assert "an error has a hint"
  (string-contains (guix-offload-error-hint (failure (make-offload-machine "m" "u" "no key")))
                   "ssh_host_ed25519_key.pub"))

(test-equal "a string with a NUL character is refused"
  'invalid-argument
  (guix-offload-error-code (failure (make-offload-machine "m\x00;" "u" %key))))

(define %interface
  (module-map (lambda (name variable) (cons name (variable-ref variable)))
              (resolve-interface '(guix-offload))))

(test-equal "what every procedure takes is written down"
  '()
  (remove (lambda (name)
            (or (assq name (signatures))
                (string-suffix? "?" (symbol->string name))
                (any (lambda (prefix) (string-prefix? prefix (symbol->string name)))
                     '("guix-offload-error" "offload-event-" "offload-machine-report-")) ;of a record
                (memq name '(offload-version make-offload-cancellation)))) ;these take nothing
          (filter-map (match-lambda
                        ((name . value) (and (procedure? value) name)))
                      %interface)))

(define %wrong
  ;; Of each kind that somebody might give, one: with the types of parameters that take it.
  (let ((m (make-offload-machine "m" "u" %key)) (freed (make-offload-machine "m" "u" %key)))
    (offload-free! freed)
    `((#f maybe any)
      (#t any)
      (() list-of any)
      (42 number any)
      (-1 ,(@ (system foreign) int) ,(@ (system foreign) int64) ,(@ (system foreign) double) any)
      (,(expt 2 70) ,(@ (system foreign) double) any)
      (nan any)
      ("text" string any)
      ("nul\x00;" any)
      (#vu8(1 2 3) any)
      (,(make-pointer 4096) any)
      (,m machine any-handle any)
      (,engine engine any-handle any)
      (,(make-offload-cancellation) cancellation any-handle any)
      (,(make-handle 'lease (make-pointer 4096)) lease any-handle any)
      (,(make-handle 'connection (make-pointer 4096)) connection any-handle any)
      (,(make-handle 'job (make-pointer 4096)) job any-handle any)
      (,(make-handle 'report (make-pointer 4096)) report any-handle any)
      (,(make-handle 'hook (make-pointer 4096)) hook any-handle any)
      (,(make-handle 'request (make-pointer 4096)) request any-handle any)
      (,freed any any-handle)
      ((,m 1) any)
      (("text" ,m) any)
      (,car procedure any))))

(define (right type)
  "Something of TYPE."
  (match type
    ((? integer?) 1)
    (('maybe _) #f)
    (('list-of _) '())
    ('any #f)
    ('any-handle engine)
    ('procedure list)
    ('string "text")
    (_ (make-handle type (make-pointer 4096)))))

(define (takes? type kinds)
  (match type
    (('maybe type) (or (memq 'maybe kinds) (takes? type kinds)))
    (('list-of _) (memq 'list-of kinds))
    ((? integer?) (or (memv type kinds) (memq 'number kinds)))
    (_ (memq type kinds))))

(define (wrong-calls)
  "For each procedure and each argument, a call with each kind of thing that it does not take: a list of the names of
both, and a thunk."
  (append-map
   (match-lambda
     ((name formals . arguments)
      (define positional
        (let count ((formals formals))
          (match formals
            ((#:optional . rest) (count rest))
            ((#:key . _) 0)
            ((_ . rest) (+ 1 (count rest)))
            (_ 0))))
      (append-map
       (lambda (index)
         (filter-map
          (match-lambda
            ((value . kinds)
             (match (list-ref arguments index)
               ((argument . type)
                (and (not (takes? type kinds))
                     (list name argument value
                           (lambda ()
                             (apply (assq-ref %interface name)
                                    (append-map (lambda (position)
                                                  (match (list-ref arguments position)
                                                    ((argument . type)
                                                     (let ((value (if (= position index) value (right type))))
                                                       (if (< position positional)
                                                           (list value)
                                                           (list (symbol->keyword argument) value))))))
                                                (iota (length arguments)))))))))))
          %wrong))
       (iota (length arguments)))))
   (signatures)))

(test-equal "a wrong argument is a condition that names procedure and argument"
  '()
  (let ((calls (wrong-calls)))
    (format #t "~a wrong calls~%" (length calls))
    (unless (> (length calls) 1000)
      (error "too few wrong calls" (length calls)))
    (remove (match-lambda
              ((name argument value thunk)
               (let ((c (failure (thunk))))
                 (and c
                      (eq? 'invalid-argument (guix-offload-error-code c))
                      (string-prefix? (format #f "~a: ~a must be a" name argument) (condition-message c))))))
            calls)))

(test-equal "a value that a newer library may add to an enum is unknown"
  '(accept unknown unknown)
  (map (lambda (number) (name-of reply-name number)) '(2 -1 1000)))

(test-equal "everything that is exported has a docstring"
  '()
  (filter-map (match-lambda
                ((name . value)
                 (and (not (and (procedure? value)
                                (string? (procedure-documentation value))
                                (not (string-null? (procedure-documentation value)))))
                      name)))
              (remove (match-lambda ((name . value) (eq? name '&guix-offload-error))) %interface)))

(test-equal "a machine file is read by the library"
  '(("one" 22 ("x86_64-linux")) ("two" 2222 ("i686-linux")))
  (map (lambda (m) (list (offload-machine-name m) (offload-machine-port m) (offload-machine-systems m)))
       (offload-load-machines
        (write-file "machines.scm"
                    (format #f "
(list (build-machine (name \"one\") (systems '(\"x86_64-linux\")) (user \"u\") (host-key ~s))
      (build-machine (name \"two\") (port 2222) (systems '(\"i686-linux\")) (user \"u\") (host-key ~s)))" %key %key)))))

(test-equal "a machine that is listed again is the same machine"
  '(#t #f #f)
  (let ((one (make-offload-machine "m" "u" %key #:systems '("a"))))
    (map (lambda (other) (offload-machine=? one other))
         (list (make-offload-machine "m" "v" %key #:systems '("b")) (make-offload-machine "m" "u" %key #:port 23)
               (make-offload-machine "n" "u" %key)))))

(test-equal "the machine file that Guix reads is the default"
  '("one" "two")
  (dynamic-wind
    (lambda () (setenv "GUIX_CONFIGURATION_DIRECTORY" %directory))
    (lambda () (map offload-machine-name (offload-load-machines)))
    (lambda () (unsetenv "GUIX_CONFIGURATION_DIRECTORY"))))

(test-assert "what is wrong with a machine file is said with its place"
  (string-contains (condition-message (failure (offload-load-machines (write-file "broken.scm" "\n(list 1"))))
                   "broken.scm:2:7: "))

(test-equal "what a machine file returned is current until it changes"
  '(#t #f)
  (let-values (((machines current?) (offload-load-machines (write-file "kept.scm" "(list)"))))
    (let ((before (current?)))
      (write-file "kept.scm" "(list )")
      (list before (current?)))))

(test-assert "a malformed machine is left out, and said"
  (let ((said '()))
    (and (null? (offload-load-machines (write-file "wrong.scm"
                                                   "\n(list (build-machine (name \"m\") (port 1) (colour 2)))")
                                       #:report (lambda (condition) (set! said (cons condition said)))))
         (= 1 (length said))
         (string-contains (condition-message (first said)) "wrong.scm:2:41: machine 'm', field 'colour': ")
         (equal? "m" (guix-offload-error-machine (first said)))
         (string? (guix-offload-error-hint (first said))))))

(test-equal "what was freed cannot be used"
  "offload-machine-name: argument 1 must be a machine, and this one was freed"
  (let ((m (make-offload-machine "m" "u" %key)))
    (offload-free! m)
    (offload-free! m)
    (condition-message (failure (offload-machine-name m)))))

(test-equal "a handle is freed once: explicitly, or when it is garbage"
  '(0 1 1 #t)
  (let ((freed 0))
    (define (handle)
      (make-handle 'test (make-pointer 42) #:free (lambda (pointer) (set! freed (+ freed 1)))))
    (define (collect-garbage)
      (do ((i 0 (+ i 1))) ((= i 5)) (gc)))
    (let* ((kept (handle))
           (before (begin (collect-garbage) freed))
           (explicitly (begin (offload-free! kept) freed))
           (again (begin (offload-free! kept) (collect-garbage) freed)))
      (do ((i 0 (+ i 1))) ((= i 100))
        (handle))
      (collect-garbage)
      ;; The collector may take a few of the latest for something that is in use.
      (list before explicitly again (< 90 freed 102)))))

(test-assert "garbage is freed, and what is not is kept"
  (let ((kept (offload-load-machines (in-directory "machines.scm"))))
    (do ((i 0 (+ i 1))) ((= i 5000))
      (make-offload-machine "m" "u" %key))
    (gc)
    (equal? '("one" "two") (map offload-machine-name kept))))

(test-equal "no machine of the list can do it"
  '((decline #f) (decline #f ("it does not build for 'i686-linux'")))
  (let ((request (make-offload-request "i686-linux" %derivation #:features '("kvm") #:timeout 1)))
    (list (let-values (((reply job) (offload-start-job engine (list (away)) request)))
            (list reply job))
          (let-values (((reply lease why) (offload-choose engine (list (away)) request)))
            (list reply lease (map condition-message why))))))

(test-equal "requests and engines say what they were given"
  '("i686-linux" ("/a" "/b") ("/c") 5 #f)
  (let ((request (make-offload-request "i686-linux" %derivation #:inputs '("/a" "/b") #:outputs '("/c"))))
    (list (offload-request-system request) (offload-request-inputs request) (offload-request-outputs request)
          (offload-engine-idle-limit engine)
          (offload-engine-directory engine 'nowhere))))

(test-equal "closures and locks want a store"
  '(store store)
  (let ((request (make-offload-request "i686-linux" %derivation))
        (engine (make-offload-engine #:database "/nowhere" #:daemon-socket "/nowhere/socket")))
    (list (guix-offload-error-code (failure (offload-request-add-closure! request engine)))
          (guix-offload-error-code (failure (offload-request-lock-outputs! request engine))))))

(test-equal "a request matches machines of its system"
  '(1 0)
  (map (lambda (system)
         (offload-request-matches (make-offload-request system %derivation) (list (away))))
       '("x86_64-linux" "i686-linux")))

(test-equal "the machines are asked, and one that is misconfigured says so"
  '("misconfigured" #f configuration 0 #f)
  (match (offload-report->list (offload-machines-status engine (list (away))))
    ((one)
     (list (offload-machine-report-state one) (offload-machine-report-reachable? one)
           (guix-offload-error-code (offload-machine-report-error one))
           (offload-machine-report-slots-taken one) (offload-machine-report-load one)))))

(test-assert "a report is text, and JSON"
  (let ((report (offload-test-machines engine (list (away) (away)))))
    (and (= 1 (offload-report-failures report))           ;the same machine twice is tested once
         (string-contains (offload-report-text report) "guix offload: error: ")
         (string-prefix? "{\"schema\": 1, \"machines\": [{\"name\": \"127.0.0.1\"" (offload-report-json report)))))
(test-equal "a machine file is checked"
  '(1 #t)
  (let ((file (in-directory "checked.scm")))
    (call-with-output-file file
      (lambda (port)
        (write '(list (build-machine (name "m"))) port)))
    (let ((report (offload-check-machine-file engine file)))
      (list (offload-report-failures report)
            (->bool (string-contains (offload-report-text report) "field 'systems' is missing"))))))

(test-equal "a build is explained"
  '(1 ("it does not build for 'i686-linux'" "it does not offer kvm, big-parallel") invalid-argument)
  (let ((report (offload-explain-build engine (list (away)) "i686-linux" #:features '("kvm" "big-parallel"))))
    (list (offload-report-failures report)
          (map first (offload-machine-report-notes (first (offload-report->list report))))
          (guard (c ((guix-offload-error? c) (guix-offload-error-code c)))
            (offload-explain-build engine (list (away)) "/gnu/store/nothing.drv")))))

(test-equal "a machine is drained until it is resumed"
  '("drained" 1 "'127.0.0.1' gets builds again\n" 0 invalid-argument)
  (let* ((machines (list (away)))
         (drained (offload-drain-machine! engine machines "127.0.0.1"))
         (count (lambda () (length (offload-report->list (offload-drained-machines engine machines)))))
         (before (count))
         (resumed (offload-resume-machine! engine machines "127.0.0.1")))
    (list (offload-machine-report-state (first (offload-report->list drained)))
          before (offload-report-text resumed) (count)
          (guard (c ((guix-offload-error? c) (guix-offload-error-code c)))
            (offload-drain-machine! engine machines "nobody")))))

(test-equal "what is cancelled fails"
  '(cancelled cancelled cancelled cancelled)
  (let ((cancellation (make-offload-cancellation))
        (request (make-offload-request "x86_64-linux" %derivation)))
    (offload-cancel! cancellation)
    (list (guix-offload-error-code (failure (offload-connect engine (away) cancellation)))
          (guix-offload-error-code (failure (offload-choose engine (list (away)) request cancellation)))
          (guix-offload-error-code (failure (offload-scan-machine engine "127.0.0.1:1" #:cancellation cancellation)))
          (with-signing-key
           (lambda ()
             (guix-offload-error-code
              (failure (offload-authorize-machine engine (away) #:cancellation cancellation))))))))

(test-equal "connecting to a machine that is away fails"
  'configuration
  (guix-offload-error-code (failure (offload-connect engine (away)))))

(test-equal "a job fails, with events on the way, of which those on machines say what to do"
  '(#t (#t) #t)
  (let*-values (((reply job) (offload-start-job engine (list (away)) (make-offload-request "x86_64-linux" %derivation)))
                ((over?) (offload-job-wait job 60000)))
    (let loop ((hinted '()))
      (let ((event (offload-job-next-event job)))
        (case (offload-event-kind event)
          ((done) (list over? hinted (guix-offload-error? (failure (offload-job-result job)))))
          ((passed-over)
           (loop (cons (and (string? (offload-event-hint event)) (string? (offload-event-text event))) hinted)))
          (else (loop hinted)))))))

;; A server that takes connections and says nothing.
(define silent-server
  (let ((server (socket PF_INET SOCK_STREAM 0)))
    (bind server AF_INET INADDR_LOOPBACK 0)
    (listen server 50)
    server))

(define silent-port
  (sockaddr:port (getsockname silent-server)))

(define silent-host
  (string-append "127.0.0.1:" (number->string silent-port)))

(define (silent)
  (make-offload-machine "127.0.0.1" "root" %key #:port silent-port
                        #:systems '("x86_64-linux") #:private-key (write-private-key)))

(define (interrupted thunk)
  "Call THUNK, which blocks, and interrupt it after a second.  Was that noticed soon?"
  (let ((previous (sigaction SIGALRM (lambda (signal) (throw 'alarm))))
        (begun (current-time)))
    (alarm 1)
    (let ((noticed? (catch 'alarm
                      (lambda () (thunk) #f)
                      (const #t))))
      (sigaction SIGALRM (car previous) (cdr previous))
      (and noticed? (< (- (current-time) begun) 5)))))

(test-equal "who waits for a job notices signals"
  #t
  (let-values (((reply job)
                (offload-start-job engine (list (silent)) (make-offload-request "x86_64-linux" %derivation))))
    (let ((noticed? (interrupted (lambda () (offload-job-wait job)))))
      (offload-job-cancel! job)
      (offload-job-wait job)
      noticed?)))

(test-equal "a call that blocks notices signals, and is cancelled by a handler that does not return"
  '(#t #t #t #t #t #t #t #t)
  (let ((request (make-offload-request "x86_64-linux" %derivation))
        (slow (write-file "slow.scm" "(begin (sleep 60) (list))"))
        (hook (make-offload-hook engine))
        (ends (pipe)))
    (map interrupted
         (list (lambda () (offload-choose engine (list (silent)) request))
               (lambda () (offload-connect engine (silent)))
               (lambda () (offload-test-machines engine (list (silent))))
               (lambda () (offload-machines-status engine (list (silent))))
               (lambda () (offload-load-machines slow))
               (lambda () (offload-scan-machine engine silent-host))
               (lambda ()
                 (with-signing-key (lambda () (offload-authorize-machine engine (silent)))))
               (lambda ()
                 (offload-serve-hook hook (fileno (car ends)) (fileno (cdr ends)) 1 (make-offload-cancellation)))))))

(test-equal "a handler that returns lets the call go on"
  '(configuration 1)
  (let* ((count 0)
         (previous (sigaction SIGUSR1 (lambda (signal) (set! count (+ count 1))))))
    (kill (getpid) SIGUSR1)
    (let ((code (guix-offload-error-code (failure (offload-connect engine (away))))))
      (sigaction SIGUSR1 (car previous) (cdr previous))
      (list code count))))

(test-equal "a job is cancelled"
  #t
  (let-values (((reply job) (offload-start-job engine (list (away)) (make-offload-request "x86_64-linux" %derivation))))
    (offload-job-cancel! job)
    (and (integer? (offload-job-descriptor job)) (offload-job-wait job 60000))))

(define (ask-hook hook . lines)
  "What HOOK answers to LINES, a list of lines, and the status to exit with."
  (match (list (pipe) (pipe))
    (((input . requests) (answers . output))
     (for-each (lambda (line) (display line requests) (newline requests)) lines)
     (close-port requests)
     (let ((status (offload-serve-hook hook (fileno input) (fileno output) (fileno output))))
       (close-port output)
       (list status (string-split (string-trim-right (get-string-all answers)) #\newline))))))

(test-equal "a hook declines what its machines cannot do"
  '(0 ("# decline" "# decline"))
  (ask-hook (make-offload-hook engine #:machine-file (in-directory "none.scm")
                               #:evaluate (lambda (file) (list (away))))
            (string-append "0 i686-linux " %derivation " ")
            (string-append "0 x86_64-linux " %derivation " kvm")))

(test-equal "a hook uses the machines that it was given, as long as the file does not change"
  '((1 #t) (0 ("# decline")))
  (let* ((file (write-file "changing.scm" "(list)"))
         (hook (make-offload-hook engine #:machine-file file #:evaluate (lambda (file) (list (away)))))
         (request (string-append "0 x86_64-linux " %derivation " "))
         (before (ask-hook hook request)))
    (write-file "changing.scm" "(list )")
    (list (list (first before) (->bool (any (lambda (line) (string-contains line "127.0.0.1")) (second before))))
          (ask-hook hook request))))

(system* "rm" "-rf" %directory)
(finish)
