;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; Handles on what the library gives, freed when they are garbage or by `offload-free!' of (guix-offload arguments).
(define-module (guix-offload handles)
  #:use-module (system foreign)
  #:use-module (srfi srfi-9)
  #:use-module (srfi srfi-9 gnu)
  #:export (make-handle
            define-handle-predicate
            handle?                               ;what it expands to: Guile 3.0.8 drops what is not exported
            handle-type
            handle-pointer
            alive?
            free-handle))

;; POINTER is #f once it was freed.  One that belongs to another handle has no FREE of its own, and keeps its OWNER.
(define-record-type <handle>
  (%make-handle type pointer free owner)
  handle?
  (type    handle-type)
  (pointer handle-pointer set-handle-pointer!)
  (free    handle-free)
  (owner   handle-owner))

(set-record-type-printer! <handle>
  (lambda (handle port)
    (format port "#<guix-offload ~a ~a>" (handle-type handle)
            (if (handle-pointer handle)
                (number->string (pointer-address (handle-pointer handle)) 16)
                "freed"))))

(define %forgotten (make-guardian))

(define* (make-handle type pointer #:key free owner)
  "A handle on POINTER; #f if that is NULL.  FREE, a procedure, is what frees it, explicitly or when it is garbage."
  (and (not (null-pointer? pointer))
       (let ((handle (%make-handle type pointer free owner)))
         (when free
           (%forgotten handle))
         handle)))

(define-syntax-rule (define-handle-predicate name type docstring)
  "Define NAME as a predicate for handles of TYPE."
  (define (name object)
    docstring
    (and (handle? object) (eq? type (handle-type object)))))

(define (free-handle handle)
  (let ((pointer (handle-pointer handle)))
    (when (and pointer (handle-free handle))
      (set-handle-pointer! handle #f)
      ((handle-free handle) pointer))))

(define (free-forgotten)
  (let ((handle (%forgotten)))
    (when handle
      (free-handle handle)
      (free-forgotten))))

(add-hook! after-gc-hook free-forgotten)

(define (alive? handle)
  (and (handle-pointer handle)
       (or (not (handle-owner handle))
           (alive? (handle-owner handle)))))
