;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; Build offloading for GNU Guix, from Guile: a binding of guix-offload.h, which is the manual, with handles that are
;; freed when they are garbage, or by `free!', and conditions of type &guix-offload-error instead of statuses.
;;
;; Arguments of a wrong type raise such a condition too, with the code `invalid-argument', and do nothing.
;;
;; A handle is for one thread at a time unless the header says otherwise.  A call blocks the thread that makes it, which
;; handles signals when it is done; `job-wait' handles them as they come.  Functions given as #:progress and #:log are
;; called by that thread, and cancel by returning #f.
(define-module (guix-offload)
  #:use-module (guix-offload foreign)
  #:use-module (system foreign)
  #:use-module (srfi srfi-1)
  #:use-module (srfi srfi-11)
  #:re-export (free!
               &guix-offload-error
               guix-offload-error?
               guix-offload-error-code
               guix-offload-error-machine
               guix-offload-error-hint
               guix-offload-error-lines
               guix-offload-error-warning-lines
               guix-offload-error-exit-status)
  #:export (offload-version

            make-machine machine?
            machine-name machine-port machine-user machine-private-key machine-host-key machine-compression
            machine-compression-level machine-daemon-socket machine-parallel-builds machine-speed
            machine-overload-threshold machine-systems machine-features
            same-machine? load-machines

            make-engine engine?
            make-request request? request-matches

            make-cancellation cancellation? cancel!

            offload-choose
            lease? lease-connection
            offload-connect
            connection? connection-machine
            offload-send
            offload-build
            offload-retrieve

            start-job job?
            job-descriptor job-wait job-cancel! job-result
            job-next-event

            make-build-hook build-hook?
            serve-build-hook

            test-machines
            machines-status
            drain-machine! resume-machine! drained-machines
            explain-build check-machine-file
            keeper-status
            stop-keeper!
            report? report-text report-json report-failures report->list))

(define-foreign version '* "guix_offload_version")

(define (offload-version)
  "The version of the library, a string."
  (pointer->text (version)))


;;;
;;; Machines.
;;;

(define machine? (handle-of 'machine))

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

(define-typed (make-machine name user host-key
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

(define-syntax-rule (define-getters decode return type (name c-name) ...)
  "Define each NAME as what the C function C-NAME says of a handle of TYPE."
  (begin
    (begin
      (define name
        (let ((get (foreign-procedure 'name return c-name (list type))))
          (lambda (handle)
            (decode (get handle)))))
      (note-signature! 'name '(handle) '("argument 1") (list type)))
    ...))

(define-getters pointer->text '* 'machine
  (machine-name "guix_offload_machine_name")
  (machine-user "guix_offload_machine_user")
  (machine-private-key "guix_offload_machine_private_key")
  (machine-host-key "guix_offload_machine_host_key")
  (machine-compression "guix_offload_machine_compression")
  (machine-daemon-socket "guix_offload_machine_daemon_socket"))

(define-getters identity uint32 'machine
  (machine-port "guix_offload_machine_port")
  (machine-compression-level "guix_offload_machine_compression_level")
  (machine-parallel-builds "guix_offload_machine_parallel_builds"))

(define-getters identity double 'machine
  (machine-speed "guix_offload_machine_speed"))

(define-foreign machine-is-same int "guix_offload_machine_is_same" 'machine 'machine)
(define-foreign overload-threshold double "guix_offload_machine_overload_threshold" 'machine)
(define-foreign nth-system '* "guix_offload_machine_system" 'machine size_t)
(define-foreign nth-feature '* "guix_offload_machine_feature" 'machine size_t)

(define-typed (machine-overload-threshold machine)
  "The load from which on MACHINE takes no more builds, #f if there is none."
  ((machine 'machine))
  (let ((load (overload-threshold machine)))
    (and (>= load 0) load)))

(define (texts nth . arguments)
  "The list of strings that the C function NTH gives for ARGUMENTS and indices."
  (collect (lambda (index)
             (pointer->text (apply nth (append arguments (list index)))))))

(define-typed (same-machine? machine other)
  "Whether OTHER is the same machine as MACHINE, perhaps listed for other systems: one with the same name and port."
  ((machine 'machine) (other 'machine))
  (= 1 (machine-is-same machine other)))

(define-typed (machine-systems machine)
  "The system types that MACHINE builds for."
  ((machine 'machine))
  (texts nth-system machine))

(define-typed (machine-features machine)
  "The features that MACHINE offers."
  ((machine 'machine))
  (texts nth-feature machine))

(define-foreign machines-new int "guix_offload_machines_new" 'out 'out)
(define-foreign machines-load int "guix_offload_machines_load" 'out '(maybe string) 'out)
(define-foreign machines-free void "guix_offload_machines_free" 'pointer)
(define-foreign machines-add int "guix_offload_machines_add" 'machines 'machine 'out)
(define-foreign machines-get '* "guix_offload_machines_get" 'machines size_t)
(define-foreign machines-problem '* "guix_offload_machines_problem" 'machines size_t)
(define-foreign machines-left-out size_t "guix_offload_machines_left_out" 'machines)
(define-foreign machines-are-current int "guix_offload_machines_are_current" 'machines)

(define-typed (load-machines #:optional file #:key (report (const #t)) (warn report))
  "The list of machines that the machine file FILE returns, by default the one that Guix reads: as the library reads it.
One that is more than plain data is evaluated by another Guile process.  A machine that is malformed is left out: REPORT
is called with a condition that says why.  WARN is called with one for what is odd in a machine that is used all the
same.  The second value is a thunk that tells whether FILE would return the same now."
  ((file (maybe 'string)) (report 'procedure) (warn 'procedure))
  (let* ((machines (call-for-handle 'machines machines-free machines-load file))
         (problems (collect (lambda (index)
                              (let ((problem (machines-problem machines index)))
                                (and (not (null-pointer? problem))
                                     (pointer->condition problem))))))
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
        (free! list)
        (apply values results)))))


;;;
;;; Engine and requests.
;;;

(define engine? (handle-of 'engine))

(define-foreign engine-new int "guix_offload_engine_new" 'out 'out)
(define-foreign engine-connect int "guix_offload_engine_connect" 'out 'out)
(define-foreign engine-free void "guix_offload_engine_free" 'pointer)
(define-foreign engine-set-directory int "guix_offload_engine_set_directory" 'engine int32 'string 'out)
(define-foreign engine-set-idle-limit int "guix_offload_engine_set_idle_limit" 'engine uint32 'out)

(define-typed (make-engine #:key store state database configuration daemon-socket idle-limit keeper?)
  "What all builds of a process share.  What is #f is what the environment says, or Guix's default.  Connections wait
IDLE-LIMIT seconds for the next build, a minute if that is #f.  If KEEPER? is true, jobs are done by the keeper, and
have no threads in this process."
  ((store (maybe 'string)) (state (maybe 'string)) (database (maybe 'string)) (configuration (maybe 'string))
   (daemon-socket (maybe 'string)) (idle-limit (maybe uint32)))
  (let ((engine (call-for-handle 'engine engine-free (if keeper? engine-connect engine-new))))
    (for-each (lambda (which name)
                (when name
                  (call engine-set-directory engine which name)))
              (iota 5)
              (list store state database configuration daemon-socket))
    (when idle-limit
      (call engine-set-idle-limit engine idle-limit))
    engine))

(define request? (handle-of 'request))

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

(define-typed (make-request system derivation
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

(define-foreign %request-matches size_t "guix_offload_request_matches" 'request 'machines)

(define-typed (request-matches request machines)
  "How many of MACHINES offer what REQUEST requires, whether they can be reached or not."
  ((request 'request) (machines (list-of 'machine)))
  (call-with-machines machines
    (lambda (machines)
      (%request-matches request machines))))


;;;
;;; The verbs.
;;;

(define lease? (handle-of 'lease))
(define connection? (handle-of 'connection))

(define cancellation? (handle-of 'cancellation))

(define-foreign cancellation-new int "guix_offload_cancellation_new" 'out 'out)
(define-foreign cancellation-free void "guix_offload_cancellation_free" 'pointer)
(define-foreign cancellation-cancel void "guix_offload_cancellation_cancel" 'cancellation)

(define (make-cancellation)
  "With what another thread can stop the verbs that it was given to, and those of their connections, by `cancel!'."
  (call-for-handle 'cancellation cancellation-free cancellation-new))

(define-typed (cancel! cancellation)
  "Stop the verbs that CANCELLATION was given to, which fail with the code `cancelled'.  For any thread."
  ((cancellation 'cancellation))
  (cancellation-cancel cancellation))

(define-foreign choose int "guix_offload_choose" 'out 'out 'engine 'machines 'request '(maybe cancellation) 'out)
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

(define %replies #(decline postpone accept))

(define (reply-and-handle type free procedure . arguments)
  "What PROCEDURE replies, a symbol, and the handle that it gives, or #f."
  (let-values (((reply pointer) (apply call-for-reply procedure arguments)))
    (values (name-of %replies reply)
            (make-handle type pointer #:free free))))

(define-typed (offload-choose engine machines request #:optional cancellation)
  "Choose one of MACHINES for REQUEST.  Two values: `decline', `postpone' or `accept', and for the last, a lease."
  ((engine 'engine) (machines (list-of 'machine)) (request 'request) (cancellation (maybe 'cancellation)))
  (call-with-machines machines
    (lambda (machines)
      (reply-and-handle 'lease lease-free choose engine machines request cancellation))))

(define-typed (lease-connection lease)
  "The connection of LEASE, to which it belongs."
  ((lease 'lease))
  (make-handle 'connection (%lease-connection lease) #:owner lease))

(define-typed (offload-connect engine machine #:optional cancellation)
  "A connection to MACHINE, without a build slot."
  ((engine 'engine) (machine 'machine) (cancellation (maybe 'cancellation)))
  (call-for-handle 'connection connection-free %connect engine machine cancellation))

(define-typed (connection-machine connection)
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
      (let* ((items (call-for-handle 'items items-free
                                     (lambda (sent connection request progress error)
                                       (%send connection request progress #f sent error))
                                     connection request progress))
             (names (texts items-get items)))
        (free! items)
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
                       (call build connection request -1 log #f)))
      (call build connection request log-descriptor #f #f)))

(define-typed (offload-retrieve connection request #:key progress)
  "Bring the outputs of REQUEST into the local store and make them valid.  The caller holds the locks on them."
  ((connection 'connection) (request 'request) (progress (maybe 'procedure)))
  (call-with-progress progress
    (lambda (progress)
      (call retrieve connection request progress #f))))


;;;
;;; Jobs.
;;;

(define job? (handle-of 'job))

(define-foreign job-start int "guix_offload_job_start" 'out 'out 'engine 'machines 'request 'out)
(define-foreign job-free void "guix_offload_job_free" 'pointer)
(define-foreign %job-next-event '* "guix_offload_job_next_event" 'job)
(define-foreign %job-wait int32 "guix_offload_job_wait" 'job int64)
(define-foreign job-cancel void "guix_offload_job_cancel" 'job)
(define-foreign %job-result int "guix_offload_job_result" 'job 'out)
(define-foreign event-free void "guix_offload_event_free" 'pointer)
(define-foreign event-kind int32 "guix_offload_event_kind" 'event)
(define-foreign event-machine '* "guix_offload_event_machine" 'event)
(define-foreign event-items size_t "guix_offload_event_items" 'event)
(define-foreign event-bytes uint64 "guix_offload_event_bytes" 'event)
(define-foreign event-text '* "guix_offload_event_text" 'event 'out)
(define-foreign event-hint '* "guix_offload_event_hint" 'event)
(define-foreign event-lines '* "guix_offload_event_lines" 'event)

(define %events
  #(queued passed-over chosen sending transferred building log retrieving retrying done fetching))

(define-typed (start-job engine machines request)
  "Start to build REQUEST on one of MACHINES.  Two values: `decline', `postpone' or `accept', and for the last, a job."
  ((engine 'engine) (machines (list-of 'machine)) (request 'request))
  (call-with-machines machines
    (lambda (machines)
      (reply-and-handle 'job job-free job-start engine machines request))))

(define-getters identity int32 'job
  (job-descriptor "guix_offload_job_descriptor"))

(define-typed (job-next-event job)
  "What happened to JOB next, an alist with `kind', a symbol, `machine', `items', `bytes', `text', a bytevector,
`hint', what to do about it, and `lines', what a build hook shows of it; #f if nothing did as yet."
  ((job 'job))
  (let ((event (make-handle 'event (%job-next-event job) #:free event-free)))
    (and event
         (let* ((length (make-slot (sizeof size_t)))
                (text (event-text event length))
                (result `((kind . ,(name-of %events (event-kind event)))
                          (machine . ,(pointer->text (event-machine event)))
                          (items . ,(event-items event))
                          (bytes . ,(event-bytes event))
                          (text . ,(pointer->bytes text (pointer-address (slot-pointer length))))
                          (hint . ,(pointer->text (event-hint event)))
                          (lines . ,(pointer->text (event-lines event))))))
           (free! event)
           result))))

;; For how long Guile, which handles signals between two steps of Scheme, does not notice any while it waits: in
;; milliseconds.  (To select on the descriptor would not do: it is readable as long as there are events.)
(define %deaf 100)

(define-typed (job-wait job #:optional (milliseconds -1))
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

(define-typed (job-cancel! job)
  "Cancel JOB unless it is over.  Return at once: its result will be `cancelled'."
  ((job 'job))
  (job-cancel job))

(define-typed (job-result job)
  "Return true if JOB, which is over, succeeded; else raise why not."
  ((job 'job))
  (call %job-result job)
  #t)


;;;
;;; Build hook.
;;;

(define build-hook? (handle-of 'hook))

(define-foreign hook-new int "guix_offload_hook_new" 'out 'engine 'out)
(define-foreign hook-free void "guix_offload_hook_free" 'pointer)
(define-foreign hook-set-machine-file int "guix_offload_hook_set_machine_file" 'hook 'string 'out)
(define-foreign hook-set-machines int "guix_offload_hook_set_machines" 'hook 'machines 'out)
(define-foreign hook-set-limits int "guix_offload_hook_set_limits" 'hook uint64 uint64 'out)
(define-foreign hook-set-build-trace int "guix_offload_hook_set_build_trace" 'hook int 'out)
(define-foreign hook-serve int "guix_offload_hook_serve" 'hook int int int 'out 'out)

(define-typed (make-build-hook engine #:key machine-file evaluate (timeout 0) (max-silent-time 0) print-build-trace?)
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

(define-typed (serve-build-hook hook input output log)
  "Serve guix-daemon's requests on the descriptors INPUT and OUTPUT, with the build log going to LOG.  Return the status
to exit with."
  ((hook 'hook) (input int) (output int) (log int))
  (call-for-integer hook-serve hook input output log))


;;;
;;; All machines at once.
;;;

(define report? (handle-of 'report))

(define-foreign farm-test int "guix_offload_farm_test" 'out 'engine 'machines 'out)
(define-foreign farm-status int "guix_offload_farm_status" 'out 'engine 'machines 'out)
(define-foreign farm-drain int "guix_offload_farm_drain" 'out 'engine 'machines 'string 'out)
(define-foreign farm-resume int "guix_offload_farm_resume" 'out 'engine 'machines 'string 'out)
(define-foreign farm-drained int "guix_offload_farm_drained" 'out 'engine 'machines 'out)
(define-foreign farm-explain int "guix_offload_farm_explain" 'out 'engine 'machines 'string '(maybe string) 'out)
(define-foreign farm-check int "guix_offload_farm_check" 'out 'engine 'machines 'out)
(define-foreign keeper-inspect int "guix_offload_keeper_status" 'out 'engine 'out)
(define-foreign keeper-stop int "guix_offload_keeper_stop" 'engine 'out 'out)
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
  (report-failures "guix_offload_report_failures"))

(define-getters pointer->text '* 'report
  (report-text "guix_offload_report_text")
  (report-json "guix_offload_report_json"))

(define (call-for-report procedure engine machines . arguments)
  (call-with-machines machines
    (lambda (machines)
      (apply call-for-handle 'report report-free procedure engine machines arguments))))

(define-typed (test-machines engine machines)
  "Test all MACHINES at once, and return a report."
  ((engine 'engine) (machines (list-of 'machine)))
  (call-for-report farm-test engine machines))

(define-typed (machines-status engine machines)
  "Ask all MACHINES at once how they are doing, and return a report."
  ((engine 'engine) (machines (list-of 'machine)))
  (call-for-report farm-status engine machines))

(define-typed (drain-machine! engine machines name)
  "Let the one of MACHINES that is called NAME, or NAME:PORT, have no new builds, and return a report on it."
  ((engine 'engine) (machines (list-of 'machine)) (name 'string))
  (call-for-report farm-drain engine machines name))

(define-typed (resume-machine! engine machines name)
  "Let the one of MACHINES that is called NAME, or NAME:PORT, have builds again, and return a report on it."
  ((engine 'engine) (machines (list-of 'machine)) (name 'string))
  (call-for-report farm-resume engine machines name))

(define-typed (drained-machines engine machines)
  "Return a report on those of MACHINES that are drained."
  ((engine 'engine) (machines (list-of 'machine)))
  (call-for-report farm-drained engine machines))

(define-typed (check-machine-file engine #:optional file)
  "Return a report on what is wrong in the machine file FILE, by default the one that Guix reads, and on whether
guix-daemon uses this library."
  ((engine 'engine) (file (maybe 'string)))
  (let* ((machines (call-for-handle 'machines machines-free machines-load file))
         (report (call-for-handle 'report report-free farm-check engine machines)))
    (free! machines)
    report))

(define-typed (explain-build engine machines what #:key (features '()))
  "Return a report on what would become of a build of WHAT, a derivation, or a system type of which FEATURES are needed
besides; and on what counts for and against each of MACHINES."
  ((engine 'engine) (machines (list-of 'machine)) (what 'string) (features (list-of 'string)))
  (call-for-report farm-explain engine machines what (string-join features ",")))

(define-typed (keeper-status engine)
  "Ask the keeper what it is doing, and return a report on no machine."
  ((engine 'engine))
  (call-for-handle 'report report-free keeper-inspect engine))

(define-typed (stop-keeper! engine)
  "Have the keeper end once its builds are done.  Return #f if none is running."
  ((engine 'engine))
  (= 1 (call-for-integer keeper-stop engine)))

(define-typed (report->list report)
  "REPORT as a list of alists, one for each machine.  What is not known is #f."
  ((report 'report))
  (define (entry index)
    (define reachable? (= 1 (report-reachable report index)))
    (define (text get) (pointer->text (get report index)))
    (define (number get) (and reachable? (get report index)))
    (define error (report-error report index))
    `((machine . ,(make-handle 'machine (report-machine report index) #:owner report))
      (state . ,(text report-state))
      (reachable? . ,reachable?)
      (error . ,(and (not (null-pointer? error)) (pointer->condition error)))
      (passed . ,(texts report-passed report index))
      (notes . ,(collect (lambda (number)
                           (let ((note (pointer->text (report-note report index number))))
                             (and note
                                  (cons note (pointer->text (report-note-hint report index number))))))))
      (slots-taken . ,(let ((taken (report-slots-taken report index)))
                        (and (>= taken 0) taken)))
      (load . ,(number report-load))
      (cores . ,(number report-cores))
      (free-space . ,(number report-free-space))
      (clock-difference . ,(number report-clock-difference))
      (guix-version . ,(text report-guix-version))
      (kernel . ,(text report-kernel))
      (architecture . ,(text report-architecture))
      (host-name . ,(text report-host-name))))
  (map entry (iota (report-count report))))
