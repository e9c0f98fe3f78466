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
(define-module (guix-offload)
  #:use-module (guix-offload foreign)
  #:use-module (system foreign)
  #:use-module (rnrs bytevectors)
  #:use-module (srfi srfi-1)
  #:use-module (srfi srfi-11)
  #:re-export (offload-free!
               &guix-offload-error
               guix-offload-error?
               guix-offload-error-code
               guix-offload-error-machine
               guix-offload-error-hint
               guix-offload-error-lines
               guix-offload-error-warning-lines
               guix-offload-error-exit-status)
  #:export (offload-version

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

(define-foreign version '* "guix_offload_version")

(define (offload-version)
  "The version of the library, a string."
  (pointer->text (version)))


;;;
;;; Cancellation.
;;;

(define-handle-predicate offload-cancellation? 'cancellation
  "Is OBJECT a cancellation?")

(define-foreign cancellation-new int "guix_offload_cancellation_new" 'out 'out)
(define-foreign cancellation-free void "guix_offload_cancellation_free" 'pointer)
(define-foreign cancellation-cancel void "guix_offload_cancellation_cancel" 'cancellation)

(define (make-offload-cancellation)
  "Make a means by which another thread, with `offload-cancel!', can stop the calls that it is given to, and what is
done with their connections."
  (call-for-handle 'cancellation cancellation-free cancellation-new))

(define-typed (offload-cancel! cancellation)
  "Stop the calls that CANCELLATION was given to, which fail with the code `cancelled'.  For any thread."
  ((cancellation 'cancellation))
  (cancellation-cancel cancellation))

;; A call that blocks is made by another thread, so that this one handles signals.
(define (call-stoppably proc cancellation)
  "Call PROC, which blocks, with CANCELLATION, or with another one if that is #f: if a signal handler does not return,
it is cancelled."
  (let ((cancellation (or cancellation (make-offload-cancellation))))
    (call-interruptibly (lambda () (proc cancellation))
                        (lambda () (cancellation-cancel cancellation)))))

;; The cancellation that a lease or a connection was made with.
(define stopped-by (make-object-property))


;;;
;;; Machines.
;;;

(define-handle-predicate offload-machine? 'machine
  "Is OBJECT a build machine?")

(define-foreign machine-new int "guix_offload_machine_new" 'out 'string '(maybe string) 'string 'string 'out)
(define-foreign machine-free void "guix_offload_machine_free" 'pointer)
(define-foreign add-system int "guix_offload_machine_add_system" 'machine 'string 'out)
(define-foreign add-feature int "guix_offload_machine_add_feature" 'machine 'string 'out)
(define-foreign set-port int "guix_offload_machine_set_port" 'machine uint32 'out)
(define-foreign set-private-key int "guix_offload_machine_set_private_key" 'machine 'string 'out)
(define-foreign set-compression int "guix_offload_machine_set_compression" 'machine 'string uint32 'out)
(define-foreign set-daemon-socket int "guix_offload_machine_set_daemon_socket" 'machine 'string 'out)
(define-foreign set-parallel-builds int "guix_offload_machine_set_parallel_builds" 'machine uint32 'out)
(define-foreign set-speed int "guix_offload_machine_set_speed" 'machine double 'out)
(define-foreign set-overload-threshold int "guix_offload_machine_set_overload_threshold" 'machine double 'out)

(define-typed (make-offload-machine name user host-key
                       #:key (systems '()) (features '()) port private-key
                       compression (compression-level 3) daemon-socket parallel-builds speed
                       (overload-threshold 0.8))
  "A build machine.  What is #f has Guix's default; an OVERLOAD-THRESHOLD of #f means that any load is fine."
  ((name 'string) (user 'string) (host-key 'string) (systems (list-of 'string)) (features (list-of 'string))
   (port (maybe uint32)) (private-key (maybe 'string)) (compression (maybe 'string)) (compression-level uint32)
   (daemon-socket (maybe 'string)) (parallel-builds (maybe uint32)) (speed (maybe double))
   (overload-threshold (maybe double)))
  (let ((machine (call-for-handle 'machine machine-free machine-new name #f user host-key)))
    (define (set setter value)
      (when value
        (call setter machine value)))
    (for-each (lambda (system) (call add-system machine system)) systems)
    (for-each (lambda (feature) (call add-feature machine feature)) features)
    (set set-port port)
    (set set-private-key private-key)
    (when compression
      (call set-compression machine compression compression-level))
    (set set-daemon-socket daemon-socket)
    (set set-parallel-builds parallel-builds)
    (set set-speed speed)
    (call set-overload-threshold machine (or overload-threshold -1))
    machine))

(define-syntax-rule (define-getters decode return type (name c-name docstring) ...)
  "Define each NAME as what the C function C-NAME says of a handle of TYPE."
  (begin
    (begin
      (define name
        (let ((get (foreign-procedure 'name return c-name (list type))))
          (lambda (handle)
            docstring
            (decode (get handle)))))
      (note-signature! 'name '(handle) '("argument 1") (list type)))
    ...))

(define-getters pointer->text '* 'machine
  (offload-machine-name "guix_offload_machine_name"
    "The host name or address of a machine.")
  (offload-machine-user "guix_offload_machine_user"
    "The account that is logged in to on a machine.")
  (offload-machine-private-key "guix_offload_machine_private_key"
    "The file with the private key for a machine.")
  (offload-machine-host-key "guix_offload_machine_host_key"
    "The only host key that is accepted from a machine.")
  (offload-machine-compression "guix_offload_machine_compression"
    "The compression methods that may be used with a machine, a comma-separated list.")
  (offload-machine-daemon-socket "guix_offload_machine_daemon_socket"
    "The socket of a machine's daemon."))

(define-getters identity uint32 'machine
  (offload-machine-port "guix_offload_machine_port"
    "The port of a machine's SSH server.")
  (offload-machine-compression-level "guix_offload_machine_compression_level"
    "The compression level for a machine, 0 to 9.")
  (offload-machine-parallel-builds "guix_offload_machine_parallel_builds"
    "How many builds may run on a machine at once."))

(define-getters identity double 'machine
  (offload-machine-speed "guix_offload_machine_speed"
    "How fast a machine is, compared with others."))

(define-foreign machine-is-same int "guix_offload_machine_is_same" 'machine 'machine)
(define-foreign overload-threshold double "guix_offload_machine_overload_threshold" 'machine)
(define-foreign nth-system '* "guix_offload_machine_system" 'machine size_t)
(define-foreign nth-feature '* "guix_offload_machine_feature" 'machine size_t)

(define-typed (offload-machine-overload-threshold machine)
  "The load from which on MACHINE takes no more builds, #f if there is none."
  ((machine 'machine))
  (let ((load (overload-threshold machine)))
    (and (>= load 0) load)))

(define (texts nth . arguments)
  "The list of strings that the C function NTH gives for ARGUMENTS and indices."
  (collect (lambda (index)
             (pointer->text (apply nth (append arguments (list index)))))))

(define (conditions nth list)
  "The conditions that the C function NTH gives for LIST and indices."
  (collect (lambda (index)
             (let ((error (nth list index)))
               (and (not (null-pointer? error))
                    (pointer->condition error))))))

(define-typed (offload-machine=? machine other)
  "Whether OTHER is the same machine as MACHINE, perhaps listed for other systems: one with the same name and port."
  ((machine 'machine) (other 'machine))
  (= 1 (machine-is-same machine other)))

(define-typed (offload-machine-systems machine)
  "The system types that MACHINE builds for."
  ((machine 'machine))
  (texts nth-system machine))

(define-typed (offload-machine-features machine)
  "The features that MACHINE offers."
  ((machine 'machine))
  (texts nth-feature machine))

(define-foreign machines-new int "guix_offload_machines_new" 'out 'out)
(define-foreign machines-load int "guix_offload_machines_load_cancellable"
  'out '(maybe string) '(maybe cancellation) 'out)
(define-foreign machines-free void "guix_offload_machines_free" 'pointer)
(define-foreign machines-add int "guix_offload_machines_add" 'machines 'machine 'out)
(define-foreign machines-get '* "guix_offload_machines_get" 'machines size_t)
(define-foreign machines-problem '* "guix_offload_machines_problem" 'machines size_t)
(define-foreign machines-left-out size_t "guix_offload_machines_left_out" 'machines)
(define-foreign machines-are-current int "guix_offload_machines_are_current" 'machines)

(define-typed (offload-load-machines #:optional file #:key (report (const #t)) (warn report) cancellation)
  "The list of machines that the machine file FILE returns, by default the one that Guix reads: as the library reads it.
One that is more than plain data is evaluated by another Guile process.  A machine that is malformed is left out: REPORT
is called with a condition that says why.  WARN is called with one for what is odd in a machine that is used all the
same.  The second value is a thunk that tells whether FILE would return the same now."
  ((file (maybe 'string)) (report 'procedure) (warn 'procedure) (cancellation (maybe 'cancellation)))
  (let* ((machines (call-stoppably (lambda (cancellation)
                                     (call-for-handle 'machines machines-free machines-load file cancellation))
                                   cancellation))
         (problems (conditions machines-problem machines))
         (left-out (machines-left-out machines)))
    (for-each report (list-head problems left-out))
    (for-each warn (list-tail problems left-out))
    (values (collect (lambda (index)
                       (make-handle 'machine (machines-get machines index) #:owner machines)))
            (lambda ()
              (= 1 (machines-are-current machines))))))

(define (call-with-machines machines proc)
  "Call PROC with a C list of MACHINES, a list of handles."
  (let ((list (call-for-handle 'machines machines-free machines-new)))
    (for-each (lambda (machine) (call machines-add list machine)) machines)
    (call-with-values (lambda () (proc list))
      (lambda results
        (offload-free! list)
        (apply values results)))))


;;;
;;; Engine and requests.
;;;

(define-handle-predicate offload-engine? 'engine
  "Is OBJECT an engine?")

(define-foreign engine-new int "guix_offload_engine_new" 'out 'out)
(define-foreign engine-connect int "guix_offload_engine_connect" 'out 'out)
(define-foreign engine-free void "guix_offload_engine_free" 'pointer)
(define-foreign engine-set-directory int "guix_offload_engine_set_directory" 'engine int32 'string 'out)
(define-foreign engine-set-idle-limit int "guix_offload_engine_set_idle_limit" 'engine uint32 'out)

(define-typed (make-offload-engine #:key store state database configuration daemon-socket idle-limit keeper?)
  "What all builds of a process share.  What is #f is what the environment says, or Guix's default.  Connections wait
IDLE-LIMIT seconds for the next build, a minute if that is #f.  If KEEPER? is true, jobs are done by the keeper, and
have no threads in this process."
  ((store (maybe 'string)) (state (maybe 'string)) (database (maybe 'string)) (configuration (maybe 'string))
   (daemon-socket (maybe 'string)) (idle-limit (maybe uint32)))
  (let ((engine (call-for-handle 'engine engine-free (if keeper? engine-connect engine-new))))
    (for-each (lambda (which name)
                (when name
                  (call engine-set-directory engine which name)))
              (iota (length %directories))
              (list store state database configuration daemon-socket))
    (when idle-limit
      (call engine-set-idle-limit engine idle-limit))
    engine))

(define-getters identity uint32 'engine
  (offload-engine-idle-limit "guix_offload_engine_idle_limit"
    "For how many seconds a connection of an engine waits for the next build."))

(define-foreign %engine-directory '* "guix_offload_engine_directory" 'engine int32)

(define %directories '(store state database configuration daemon-socket))

(define-typed (offload-engine-directory engine which)
  "The directory WHICH of ENGINE, one of the symbols `store', `state', `database' and `configuration', or the file
`daemon-socket'; #f for any other."
  ((engine 'engine) (which 'any))
  (let ((index (list-index (lambda (name) (eq? name which)) %directories)))
    (and index (pointer->text (%engine-directory engine index)))))

(define-handle-predicate offload-request? 'request
  "Is OBJECT a request?")

(define-foreign request-new int "guix_offload_request_new" 'out 'string 'string 'out)
(define-foreign request-free void "guix_offload_request_free" 'pointer)
(define-foreign request-add-feature int "guix_offload_request_add_feature" 'request 'string 'out)
(define-foreign request-add-input int "guix_offload_request_add_input" 'request 'string 'out)
(define-foreign request-add-output int "guix_offload_request_add_output" 'request 'string 'out)
(define-foreign request-set-limits int "guix_offload_request_set_limits" 'request uint64 uint64 'out)
(define-foreign request-set-cores int "guix_offload_request_set_cores" 'request uint32 'out)
(define-foreign request-set-rounds int "guix_offload_request_set_rounds" 'request uint32 'out)
(define-foreign request-set-keep-failed int "guix_offload_request_set_keep_failed" 'request int 'out)
(define-foreign request-set-substitutes int "guix_offload_request_set_substitutes" 'request int 'out)
(define-foreign request-set-verbosity int "guix_offload_request_set_verbosity" 'request uint32 'out)
(define-foreign request-set-patient int "guix_offload_request_set_patient" 'request int 'out)
(define-foreign request-set-build-trace int "guix_offload_request_set_build_trace" 'request int 'out)

(define-typed (make-offload-request system derivation
                       #:key (features '()) (inputs '()) (outputs '())
                       (timeout 0) (max-silent-time 0) print-build-trace? cores rounds keep-failed? (verbosity 0)
                       (patient? #t) (substitutes? 'default))
  "A request to build DERIVATION, a file name, for SYSTEM.  INPUTS, with DERIVATION, is a closure; limits are in
seconds.  CORES and ROUNDS are as for 'guix build'; what is #f is as the machine's daemon is set.  A job fails when no
machine can be reached, rather than wait, if PATIENT? is #f.  The machine may fetch inputs from its own substitute
servers, unless SUBSTITUTES? is #f; by default it may, unless the environment has GUIX_OFFLOAD_SUBSTITUTES=no."
  ((system 'string) (derivation 'string) (features (list-of 'string)) (inputs (list-of 'string))
   (outputs (list-of 'string)) (timeout uint64) (max-silent-time uint64) (print-build-trace? 'any)
   (cores (maybe uint32)) (rounds (maybe uint32)) (keep-failed? 'any) (verbosity uint32) (patient? 'any)
   (substitutes? 'any))
  (let ((request (call-for-handle 'request request-free request-new system derivation)))
    (define (add-all adder texts)
      (for-each (lambda (text) (call adder request text)) texts))
    (add-all request-add-feature features)
    (add-all request-add-input inputs)
    (add-all request-add-output outputs)
    (call request-set-limits request timeout max-silent-time)
    (call request-set-build-trace request (if print-build-trace? 1 0))
    (when cores
      (call request-set-cores request cores))
    (when rounds
      (call request-set-rounds request rounds))
    (call request-set-keep-failed request (if keep-failed? 1 0))
    (unless (eq? substitutes? 'default)
      (call request-set-substitutes request (if substitutes? 1 0)))
    (call request-set-verbosity request verbosity)
    (call request-set-patient request (if patient? 1 0))
    request))

(define-getters pointer->text '* 'request
  (offload-request-system "guix_offload_request_system"
    "The system type that a request is for.")
  (offload-request-derivation "guix_offload_request_derivation"
    "The derivation of a request."))

(define-foreign nth-input '* "guix_offload_request_input" 'request size_t)
(define-foreign nth-output '* "guix_offload_request_output" 'request size_t)

(define-typed (offload-request-inputs request)
  "The inputs of REQUEST, a list."
  ((request 'request))
  (texts nth-input request))

(define-typed (offload-request-outputs request)
  "The outputs of REQUEST that are to become valid, a list."
  ((request 'request))
  (texts nth-output request))

(define-foreign add-closure int "guix_offload_request_add_closure" 'request 'engine '(maybe cancellation) 'out)
(define-foreign lock-outputs int "guix_offload_request_lock_outputs" 'request 'engine '(maybe cancellation) 'out 'out)

(define-typed (offload-request-add-closure! request engine #:optional cancellation)
  "Add to REQUEST all inputs of its derivation, and those of its outputs that are not valid."
  ((request 'request) (engine 'engine) (cancellation (maybe 'cancellation)))
  (call-stoppably (lambda (cancellation)
                    (call add-closure request engine cancellation)
                    #t)
                  cancellation))

(define-typed (offload-request-lock-outputs! request engine #:optional cancellation)
  "Lock the outputs of REQUEST, so that nobody else builds them: until it was freed, and the jobs started with it are
over.  Return how many of them are left to build: others may have built some meanwhile."
  ((request 'request) (engine 'engine) (cancellation (maybe 'cancellation)))
  (call-stoppably (lambda (cancellation)
                    (call-for-size lock-outputs request engine cancellation))
                  cancellation))

(define-foreign %request-matches size_t "guix_offload_request_matches" 'request 'machines)

(define-typed (offload-request-matches request machines)
  "How many of MACHINES offer what REQUEST requires, whether they can be reached or not."
  ((request 'request) (machines (list-of 'machine)))
  (call-with-machines machines
    (lambda (machines)
      (%request-matches request machines))))


;;;
;;; The verbs.
;;;

(define-handle-predicate offload-lease? 'lease
  "Is OBJECT a lease, a machine that was chosen?")
(define-handle-predicate offload-connection? 'connection
  "Is OBJECT a connection?")

(define-foreign choose int "guix_offload_choose_explained"
  'out 'out 'out 'engine 'machines 'request '(maybe cancellation) 'out)
(define-foreign refusals-free void "guix_offload_refusals_free" 'pointer)
(define-foreign refusals-get '* "guix_offload_refusals_get" 'refusals size_t)
(define-foreign reply-name '* "guix_offload_reply_name" int32)
(define-foreign lease-free void "guix_offload_lease_free" 'pointer)
(define-foreign %lease-connection '* "guix_offload_lease_connection" 'lease)
(define-foreign %connect int "guix_offload_connect" 'out 'engine 'machine '(maybe cancellation) 'out)
(define-foreign connection-free void "guix_offload_connection_free" 'pointer)
(define-foreign %connection-machine '* "guix_offload_connection_machine" 'connection)
(define-foreign %send int "guix_offload_send" 'connection 'request 'callback 'data 'out 'out)
(define-foreign items-get '* "guix_offload_items_get" 'items size_t)
(define-foreign items-free void "guix_offload_items_free" 'pointer)
(define-foreign build int "guix_offload_build" 'connection 'request int 'callback 'data 'out)
(define-foreign retrieve int "guix_offload_retrieve" 'connection 'request 'callback 'data 'out)

(define-typed (offload-choose engine machines request #:optional cancellation)
  "Choose one of MACHINES for REQUEST.  Three values: `decline', `postpone' or `accept'; for the last, a lease, else #f;
and why machines were not chosen, a list of conditions, each of which names its machine."
  ((engine 'engine) (machines (list-of 'machine)) (request 'request) (cancellation (maybe 'cancellation)))
  (let ((cancellation (or cancellation (make-offload-cancellation))))
    (call-with-machines machines
      (lambda (machines)
        (let-values (((reply pointer reasons)
                      (call-stoppably (lambda (cancellation)
                                        (call-for-reasons choose engine machines request cancellation))
                                      cancellation)))
          (let* ((lease (make-handle 'lease pointer #:free lease-free))
                 (refusals (make-handle 'refusals reasons #:free refusals-free))
                 (why (conditions refusals-get refusals)))
            (offload-free! refusals)
            (when lease
              (set! (stopped-by lease) cancellation))
            (values (name-of reply-name reply) lease why)))))))

(define-typed (offload-lease-connection lease)
  "The connection of LEASE, to which it belongs."
  ((lease 'lease))
  (let ((connection (make-handle 'connection (%lease-connection lease) #:owner lease)))
    (set! (stopped-by connection) (stopped-by lease))
    connection))

(define-typed (offload-connect engine machine #:optional cancellation)
  "A connection to MACHINE, without a build slot."
  ((engine 'engine) (machine 'machine) (cancellation (maybe 'cancellation)))
  (let* ((cancellation (or cancellation (make-offload-cancellation)))
         (connection (call-stoppably (lambda (cancellation)
                                       (call-for-handle 'connection connection-free
                                                        %connect engine machine cancellation))
                                     cancellation)))
    (set! (stopped-by connection) cancellation)
    connection))

(define (call-on connection thunk)
  "Call THUNK, which does something with CONNECTION, and blocks."
  (call-stoppably (lambda (cancellation) (thunk)) (stopped-by connection)))

(define-typed (offload-connection-machine connection)
  "The machine that CONNECTION is to."
  ((connection 'connection))
  (make-handle 'machine (%connection-machine connection) #:owner connection))

(define (call-with-progress progress body)
  "Call BODY with a C function that calls PROGRESS with the bytes that have moved and their estimated total."
  (if progress
      (with-callback (list '* uint64 uint64)
                     (lambda (data bytes total) (progress bytes total))
                     body)
      (body #f)))

(define-typed (offload-send connection request #:key progress)
  "Send what CONNECTION's machine lacks of the inputs of REQUEST, and its derivation.  Return what was sent."
  ((connection 'connection) (request 'request) (progress (maybe 'procedure)))
  (call-with-progress progress
    (lambda (progress)
      (let* ((items (call-on connection
                             (lambda ()
                               (call-for-handle 'items items-free
                                                (lambda (sent connection request progress error)
                                                  (%send connection request progress #f sent error))
                                                connection request progress))))
             (names (texts items-get items)))
        (offload-free! items)
        names))))

(define-typed (offload-build connection request #:key log (log-descriptor -1))
  "Build REQUEST on CONNECTION's machine.  LOG, if not #f, is called with pieces of the log, bytevectors; else the log
goes to LOG-DESCRIPTOR, unless that is -1."
  ((connection 'connection) (request 'request) (log (maybe 'procedure)) (log-descriptor int))
  (if log
      (with-callback (list '* '* size_t)
                     (lambda (data text length)
                       (log (pointer->bytes text length)))
                     (lambda (log)
                       (call-on connection (lambda () (call build connection request -1 log #f)))))
      (call-on connection (lambda () (call build connection request log-descriptor #f #f)))))

(define-typed (offload-retrieve connection request #:key progress)
  "Bring the outputs of REQUEST into the local store and make them valid.  Their locks must be held: by guix-daemon, or
by `offload-request-lock-outputs!'."
  ((connection 'connection) (request 'request) (progress (maybe 'procedure)))
  (call-with-progress progress
    (lambda (progress)
      (call-on connection (lambda () (call retrieve connection request progress #f))))))


;;;
;;; Jobs.
;;;

(define-handle-predicate offload-job? 'job
  "Is OBJECT a job?")

(define-foreign job-start int "guix_offload_job_start" 'out 'out 'engine 'machines 'request 'out)
(define-foreign job-free void "guix_offload_job_free" 'pointer)
(define-foreign %job-next-event '* "guix_offload_job_next_event" 'job)
(define-foreign %job-wait int32 "guix_offload_job_wait" 'job int64)
(define-foreign job-cancel void "guix_offload_job_cancel" 'job)
(define-foreign %job-result int "guix_offload_job_result" 'job 'out)
(define-foreign event-free void "guix_offload_event_free" 'pointer)
(define-foreign c-event-kind int32 "guix_offload_event_kind" 'event)
(define-foreign c-event-machine '* "guix_offload_event_machine" 'event)
(define-foreign c-event-items size_t "guix_offload_event_items" 'event)
(define-foreign c-event-bytes uint64 "guix_offload_event_bytes" 'event)
(define-foreign c-event-text '* "guix_offload_event_text" 'event 'out)
(define-foreign c-event-hint '* "guix_offload_event_hint" 'event)
(define-foreign event-type-name '* "guix_offload_event_type_name" int32)
(define-foreign c-event-lines '* "guix_offload_event_lines" 'event)

(define-typed (offload-start-job engine machines request)
  "Start to build REQUEST on one of MACHINES.  Two values: `decline', `postpone' or `accept', and for the last, a job."
  ((engine 'engine) (machines (list-of 'machine)) (request 'request))
  (call-with-machines machines
    (lambda (machines)
      (let-values (((reply pointer) (call-for-reply job-start engine machines request)))
        (values (name-of reply-name reply)
                (make-handle 'job pointer #:free job-free))))))

(define-getters identity int32 'job
  (offload-job-descriptor "guix_offload_job_descriptor"
    "A descriptor that is readable while a job has an event to take, and for good once it is over: for `select' only."))

(define-getters pointer->text '* 'job
  (offload-job-machine "guix_offload_job_machine"
    "The name of the machine that does a job, or was the last to try; #f if none was chosen yet."))

(define-record <offload-event> make-event
  (offload-event? "Is OBJECT an event of a job?")
  (kind offload-event-kind
    "What happened, a symbol, such as `queued', `passed-over', `chosen', `sending', `building', `log' and `done'.")
  (machine offload-event-machine
    "The name of the machine that an event is about; #f if it is about none.")
  (items offload-event-items
    "How many store items an event is about.")
  (bytes offload-event-bytes
    "How many bytes an event is about.")
  (text offload-event-text
    "A piece of the log, a bytevector, if the kind of an event is `log'; else what it says, a string.")
  (hint offload-event-hint
    "What to do about what happened, a string; #f if that is not known.")
  (lines offload-event-lines
    "The lines that a build hook shows of an event, a string."))

(define-typed (offload-job-next-event job)
  "What happened to JOB next, an <offload-event>; #f if nothing did as yet."
  ((job 'job))
  (let ((event (make-handle 'event (%job-next-event job) #:free event-free)))
    (and event
         (let* ((length (make-slot (sizeof size_t)))
                (text (c-event-text event length))
                (bytes (pointer->bytes text (pointer-address (slot-pointer length))))
                (kind (name-of event-type-name (c-event-kind event)))
                (result (make-event kind
                                    (pointer->text (c-event-machine event))
                                    (c-event-items event)
                                    (c-event-bytes event)
                                    (if (eq? kind 'log) bytes (utf8->string bytes))
                                    (pointer->text (c-event-hint event))
                                    (pointer->text (c-event-lines event)))))
           (offload-free! event)
           result))))

;; For how long Guile, which handles signals between two steps of Scheme, does not notice any while it waits: in
;; milliseconds.  (To select on the descriptor would not do: it is readable as long as there are events.)
(define %deaf 100)

(define-typed (offload-job-wait job #:optional (milliseconds -1))
  "Wait for at most MILLISECONDS, for good if that is negative; return true if JOB is over.  Signals are handled
meanwhile; a handler that does not return ends this."
  ((job 'job) (milliseconds int64))
  (define (now)
    (quotient (* 1000 (get-internal-real-time)) internal-time-units-per-second))
  (define end
    (and (>= milliseconds 0) (+ (now) milliseconds)))
  (let loop ()
    (let ((left (if end (max 0 (- end (now))) %deaf)))
      (cond ((= 1 (%job-wait job (min left %deaf))) #t)
            ((and end (<= left 0)) #f)
            (else (loop))))))

(define-typed (offload-job-cancel! job)
  "Cancel JOB unless it is over.  Return at once: its result will be `cancelled'."
  ((job 'job))
  (job-cancel job))

(define-typed (offload-job-result job)
  "Return true if JOB, which is over, succeeded; else raise why not."
  ((job 'job))
  (call %job-result job)
  #t)


;;;
;;; Build hook.
;;;

(define-handle-predicate offload-hook? 'hook
  "Is OBJECT a build hook?")

(define-foreign hook-new int "guix_offload_hook_new" 'out 'engine 'out)
(define-foreign hook-free void "guix_offload_hook_free" 'pointer)
(define-foreign hook-set-machine-file int "guix_offload_hook_set_machine_file" 'hook 'string 'out)
(define-foreign hook-set-machines int "guix_offload_hook_set_machines" 'hook 'machines 'out)
(define-foreign hook-set-limits int "guix_offload_hook_set_limits" 'hook uint64 uint64 'out)
(define-foreign hook-set-build-trace int "guix_offload_hook_set_build_trace" 'hook int 'out)
(define-foreign hook-serve int "guix_offload_hook_serve_cancellable"
  'hook int int int 'out '(maybe cancellation) 'out)

(define-typed (make-offload-hook engine #:key machine-file evaluate (timeout 0) (max-silent-time 0) print-build-trace?)
  "A build hook.  EVALUATE, if not #f, is called with MACHINE-FILE, or with #f, and returns the machines in it, a list."
  ((engine 'engine) (machine-file (maybe 'string)) (evaluate (maybe 'procedure)) (timeout uint64)
   (max-silent-time uint64) (print-build-trace? 'any))
  (let ((hook (call-for-handle 'hook hook-free hook-new engine)))
    (when machine-file
      (call hook-set-machine-file hook machine-file))
    (when evaluate
      ;; In this order: the hook reads the file itself if it changes after it was named.
      (call-with-machines (evaluate machine-file)
        (lambda (machines)
          (call hook-set-machines hook machines))))
    (call hook-set-limits hook timeout max-silent-time)
    (call hook-set-build-trace hook (if print-build-trace? 1 0))
    hook))

(define-typed (offload-serve-hook hook input output log #:optional cancellation)
  "Serve guix-daemon's requests on the descriptors INPUT and OUTPUT, with the build log going to LOG.  Return the status
to exit with.  Only with a CANCELLATION are signals handled meanwhile."
  ((hook 'hook) (input int) (output int) (log int) (cancellation (maybe 'cancellation)))
  (define (serve cancellation)
    (call-for-integer (lambda (hook input output log status error)
                        (hook-serve hook input output log status cancellation error))
                      hook input output log))
  ;; A hook is a process that is killed by signals.  It has no use for another thread.
  (if cancellation
      (call-stoppably serve cancellation)
      (serve #f)))


;;;
;;; All machines at once.
;;;

(define-handle-predicate offload-report? 'report
  "Is OBJECT a report?")

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
(define-foreign scan int "guix_offload_scan" 'out 'engine 'string '(maybe string) '(maybe string) '(maybe string) 'out)
(define-foreign authorize int "guix_offload_authorize" 'out 'engine 'machine '(maybe report) 'out)
(define-foreign journal-log int "guix_offload_journal_log" 'out 'engine size_t 'out)
(define-foreign journal-stats int "guix_offload_journal_stats" 'out 'engine 'out)
(define-foreign journal-metrics int "guix_offload_journal_metrics" 'out 'engine 'out)
(define-foreign report-free void "guix_offload_report_free" 'pointer)
(define-foreign report-count size_t "guix_offload_report_count" 'report)
(define-foreign report-machine '* "guix_offload_report_machine" 'report size_t)
(define-foreign report-error '* "guix_offload_report_error" 'report size_t)
(define-foreign report-passed '* "guix_offload_report_passed" 'report size_t size_t)
(define-foreign report-note '* "guix_offload_report_note" 'report size_t size_t)
(define-foreign report-note-hint '* "guix_offload_report_note_hint" 'report size_t size_t)
(define-foreign report-state '* "guix_offload_report_state" 'report size_t)
(define-foreign report-reachable int32 "guix_offload_report_reachable" 'report size_t)
(define-foreign report-slots-taken int64 "guix_offload_report_slots_taken" 'report size_t)
(define-foreign report-load double "guix_offload_report_load" 'report size_t)
(define-foreign report-cores uint32 "guix_offload_report_cores" 'report size_t)
(define-foreign report-free-space uint64 "guix_offload_report_free_space" 'report size_t)
(define-foreign report-clock-difference int64 "guix_offload_report_clock_difference" 'report size_t)
(define-foreign report-guix-version '* "guix_offload_report_guix_version" 'report size_t)
(define-foreign report-kernel '* "guix_offload_report_kernel" 'report size_t)
(define-foreign report-architecture '* "guix_offload_report_architecture" 'report size_t)
(define-foreign report-host-name '* "guix_offload_report_host_name" 'report size_t)

(define-getters identity size_t 'report
  (offload-report-failures "guix_offload_report_failures"
    "How many machines of a report failed."))

(define-getters pointer->text '* 'report
  (offload-report-text "guix_offload_report_text"
    "A report for people, a string.")
  (offload-report-json "guix_offload_report_json"
    "A report for programs: a line of JSON."))

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
  (let* ((machines (call-for-handle 'machines machines-free machines-load file #f))
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

(define-typed (offload-scan-machine engine host #:key user accepted private-key)
  "Return a report on HOST, \"NAME\" or \"NAME:PORT\", which no machine file has yet.  Its text is a form for that file.
Log in as USER, root if that is #f, but only if ssh knows the host key, or ACCEPTED is its fingerprint."
  ((engine 'engine) (host 'string) (user (maybe 'string)) (accepted (maybe 'string)) (private-key (maybe 'string)))
  (call-for-handle 'report report-free scan engine host user accepted private-key))

(define-typed (offload-authorize-machine engine machine #:key confirmed)
  "Return a report on MACHINE, the text of which has its signing key and that of this host.  It fails unless each of the
two accepts what the other one signs.  If CONFIRMED is such a report, see to that for the keys in it, and test MACHINE."
  ((engine 'engine) (machine 'machine) (confirmed (maybe 'report)))
  (call-for-handle 'report report-free authorize engine machine confirmed))

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

(define-record <offload-machine-report> make-machine-report
  (offload-machine-report? "Is OBJECT the report on one machine?")
  (machine offload-machine-report-machine
    "The machine.")
  (state offload-machine-report-state
    "In a word or two, whether it gets builds: a string.")
  (reachable? offload-machine-report-reachable?
    "Was it connected to?")
  (error offload-machine-report-error
    "Why it failed, a condition; #f if it did not.")
  (passed offload-machine-report-passed
    "Sentences about what works, a list of strings.")
  (notes offload-machine-report-notes
    "What is odd, a list of pairs: a string, and what to do about it, a string or #f.")
  (slots-taken offload-machine-report-slots-taken
    "How many of its build slots are taken; #f if that is not known.")
  (load offload-machine-report-load
    "Its load, divided by its number of cores; #f if that is not known.")
  (cores offload-machine-report-cores
    "The number of its cores; #f if that is not known.")
  (free-space offload-machine-report-free-space
    "The free space where its store is, in bytes; #f if that is not known.")
  (clock-difference offload-machine-report-clock-difference
    "By how many seconds its clock is ahead of ours; #f if that is not known.")
  (guix-version offload-machine-report-guix-version
    "The version of its Guix; #f if that is not known.")
  (kernel offload-machine-report-kernel
    "Its kernel; #f if that is not known.")
  (architecture offload-machine-report-architecture
    "Its hardware, such as \"x86_64\"; #f if that is not known.")
  (host-name offload-machine-report-host-name
    "The host name that it gives itself; #f if that is not known."))

(define-typed (offload-report->list report)
  "REPORT as a list of <offload-machine-report>, one for each machine."
  ((report 'report))
  (define (entry index)
    (define reachable? (= 1 (report-reachable report index)))
    (define (text get) (pointer->text (get report index)))
    (define (number get) (and reachable? (get report index)))
    (define error (report-error report index))
    (make-machine-report
     (make-handle 'machine (report-machine report index) #:owner report)
     (text report-state)
     reachable?
     (and (not (null-pointer? error)) (pointer->condition error))
     (texts report-passed report index)
     (collect (lambda (number)
                (let ((note (pointer->text (report-note report index number))))
                  (and note
                       (cons note (pointer->text (report-note-hint report index number)))))))
     (let ((taken (report-slots-taken report index)))
       (and (>= taken 0) taken))
     (number report-load)
     (number report-cores)
     (number report-free-space)
     (number report-clock-difference)
     (text report-guix-version)
     (text report-kernel)
     (text report-architecture)
     (text report-host-name)))
  (map entry (iota (report-count report))))
