;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; Jobs: builds that go on by themselves, and the events that tell of them.
(define-module (guix-offload jobs)
  #:use-module (guix-offload handles)
  #:use-module (guix-offload arguments)
  #:use-module (guix-offload foreign)
  #:use-module (guix-offload machines)
  #:use-module (guix-offload verbs)
  #:use-module (system foreign)
  #:use-module (rnrs bytevectors)
  #:use-module (srfi srfi-11)
  #:export (offload-start-job
            offload-job?
            offload-job-descriptor
            offload-job-machine
            offload-job-next-event
            offload-job-wait
            offload-job-cancel!
            offload-job-result
            offload-event?
            offload-event-kind
            offload-event-machine
            offload-event-items
            offload-event-bytes
            offload-event-text
            offload-event-hint
            offload-event-lines))

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
