;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; Calls that block, and what stops them.
(define-module (guix-offload cancellation)
  #:use-module (guix-offload conditions)
  #:use-module (guix-offload handles)
  #:use-module (guix-offload arguments)
  #:use-module (guix-offload foreign)
  #:use-module (system foreign)
  #:use-module (ice-9 threads)
  #:export (offload-cancellation?
            make-offload-cancellation
            offload-cancel!
            call-stoppably
            stopped-by))

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

;; For how long, in seconds, a wait need not notice a signal.  Guile handles signals between two steps of Scheme.
(define %deaf 1/10)

(define (call-interruptibly thunk stop)
  "Call THUNK, which blocks in C, in another thread; return what it returns, or raise what it raises.  This thread
handles signals meanwhile.  If a handler does not return, call STOP, which must make THUNK return soon, and wait for
that."
  (define mutex (make-mutex))
  (define changed (make-condition-variable))
  (define outcome #f)
  (define (work)
    (let ((got (catch #t
                 (lambda ()
                   (call-with-values thunk
                     (lambda results (lambda () (apply values results)))))
                 (lambda exception
                   (lambda () (apply go-on exception))))))
      (with-mutex mutex
        (set! outcome got)
        (signal-condition-variable changed))))
  (define (await)
    (with-mutex mutex
      (unless outcome
        (wait-condition-variable changed mutex (after %deaf))))
    (unless outcome
      (await)))
  (call-with-new-thread work)
  (dynamic-wind
    (const #t)
    await
    (lambda ()
      (unless outcome
        (stop)
        (await))))
  (outcome))

(define (after seconds)
  "The time in SECONDS, as a pair."
  (let* ((now (gettimeofday))
         (time (+ (* 1000000 (car now)) (cdr now) (inexact->exact (round (* 1000000 seconds))))))
    (cons (quotient time 1000000) (remainder time 1000000))))

;; A call that blocks is made by another thread, so that this one handles signals.
(define (call-stoppably proc cancellation)
  "Call PROC, which blocks, with CANCELLATION, or with another one if that is #f: if a signal handler does not return,
it is cancelled."
  (let ((cancellation (or cancellation (make-offload-cancellation))))
    (call-interruptibly (lambda () (proc cancellation))
                        (lambda () (cancellation-cancel cancellation)))))

;; The cancellation that a lease or a connection was made with.
(define stopped-by (make-object-property))
