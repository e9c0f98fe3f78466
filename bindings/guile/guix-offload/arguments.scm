;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; What procedures take: the types of their arguments, which they check.
(define-module (guix-offload arguments)
  #:use-module (guix-offload conditions)
  #:use-module (guix-offload handles)
  #:use-module (system foreign)
  #:use-module (rnrs bytevectors)
  #:use-module (srfi srfi-1)
  #:use-module (srfi srfi-11)
  #:export (define-typed
            check                                 ;what it expands to: Guile 3.0.8 drops what is not exported
            note-signature!
            signatures
            maybe
            list-of
            offload-free!))

;; What a parameter takes is a type of the foreign function interface, a number, or one of these:
;;
;;   a symbol         a handle of that type
;;   (list-of TYPE)   a list of them
;;   (maybe TYPE)     that, or #f
;;   string           one without NUL characters
;;   any-handle, procedure, any
;;
;; and for what only this binding passes:
;;
;;   out              a bytevector where the function puts something
;;   callback         a pointer to a function, or #f
;;   data             what a callback gets: #f
;;   pointer

(define (maybe type) (list 'maybe type))
(define (list-of type) (list 'list-of type))

(define %signed (list int8 int16 int32 int64 int))

(define (range type)
  "The least and the greatest integer of TYPE, a type of the foreign function interface."
  (let ((bits (* 8 (sizeof type))))
    (if (memv type %signed)
        (values (- (expt 2 (- bits 1))) (- (expt 2 (- bits 1)) 1))
        (values 0 (- (expt 2 bits) 1)))))

(define (accepts? type object)
  "Is OBJECT of TYPE?"
  (cond ((eqv? type double) (real? object))
        ((integer? type)
         (let-values (((least greatest) (range type)))
           (and (integer? object) (exact? object) (<= least object greatest))))
        ((pair? type)
         (if (eq? (first type) 'maybe)
             (or (not object) (accepts? (second type) object))
             (and (list? object)
                  (every (lambda (object) (accepts? (second type) object)) object))))
        (else
         (case type
           ((string) (and (string? object) (not (string-index object #\nul))))
           ((any-handle) (handle? object))
           ((procedure) (procedure? object))
           ((any) #t)
           ((out) (bytevector? object))
           ((callback) (or (not object) (pointer? object)))
           ((data) (not object))
           ((pointer) (pointer? object))
           (else (and (handle? object) (eq? type (handle-type object))))))))

(define (describe type)
  "TYPE in words."
  (cond ((eqv? type double) "a number")
        ((integer? type)
         (let-values (((least greatest) (range type)))
           (format #f "an integer from ~a to ~a" least greatest)))
        ((pair? type)
         (if (eq? (first type) 'maybe)
             (string-append (describe (second type)) " or #f")
             (format #f "a list, each of it ~a" (describe (second type)))))
        (else
         (case type
           ((string) "a string without NUL characters")
           ((any-handle) "a handle of this binding")
           ((engine items) (format #f "an ~a" type))
           (else (format #f "a ~a" type))))))

(define (check procedure argument type object)
  "Raise a condition that names PROCEDURE and its ARGUMENT unless OBJECT is of TYPE, and was not freed."
  (unless (accepts? type object)
    (fail 'invalid-argument
          (format #f "~a: ~a must be ~a, not ~s" procedure argument (describe type) object)
          #f))
  (when (and (handle? object) (not (eq? type 'any-handle)) (not (alive? object)))
    (fail 'invalid-argument
          (format #f "~a: ~a must be ~a, and this one was freed" procedure argument (describe type))
          #f)))

;; What procedures take: a list of (NAME FORMALS (ARGUMENT . TYPE) ...).  The tests give each of them what is wrong.
(define %signatures '())

(define (note-signature! name formals arguments types)
  (set! %signatures (cons (cons* name formals (map cons arguments types)) %signatures)))

(define (signatures)
  "What each procedure that `define-typed' defined takes."
  %signatures)

(define-syntax-rule (define-typed (name . formals) docstring ((argument type) ...) body ...)
  "Define NAME as by `define*', for ARGUMENTs of these TYPEs: for others it raises a condition that names them."
  (begin
    (define* (name . formals)
      docstring
      (check 'name 'argument type argument) ...
      (let ()
        body ...))
    (note-signature! 'name 'formals '(argument ...) (list type ...))))

(define-typed (offload-free! handle)
  "Free HANDLE now instead of some time after it is forgotten.  What belongs to it cannot be used any more.  To free it
again is fine; a handle that belongs to another one is freed with that."
  ((handle 'any-handle))
  (free-handle handle))
