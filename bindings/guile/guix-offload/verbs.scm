;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; The verbs: each step of a build by itself, from the choice of a machine to the outputs.
(define-module (guix-offload verbs)
  #:use-module (guix-offload handles)
  #:use-module (guix-offload arguments)
  #:use-module (guix-offload foreign)
  #:use-module (guix-offload cancellation)
  #:use-module (guix-offload machines)
  #:use-module (system foreign)
  #:use-module (srfi srfi-11)
  #:export (offload-choose
            offload-lease?
            offload-lease-connection
            offload-connect
            offload-connection?
            offload-connection-machine
            offload-send
            offload-build
            offload-retrieve
            reply-name))

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
