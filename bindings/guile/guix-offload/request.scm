;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; Requests: what to build.
(define-module (guix-offload request)
  #:use-module (guix-offload handles)
  #:use-module (guix-offload arguments)
  #:use-module (guix-offload foreign)
  #:use-module (guix-offload cancellation)
  #:use-module (guix-offload machines)
  #:use-module (system foreign)
  #:export (offload-request?
            make-offload-request
            offload-request-system
            offload-request-derivation
            offload-request-inputs
            offload-request-outputs
            offload-request-add-closure!
            offload-request-lock-outputs!
            offload-request-matches))

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
