;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; What the binding is made of: the shared library, calls into it, handles on what it gives, and conditions for what
;; fails.  The functions themselves are in (guix-offload).  For Guile 2.2 and 3.0.
(define-module (guix-offload foreign)
  #:use-module (system foreign)
  #:use-module (rnrs bytevectors)
  #:use-module (ice-9 threads)
  #:use-module (srfi srfi-1)
  #:use-module (srfi srfi-9)
  #:use-module (srfi srfi-9 gnu)
  #:use-module (srfi srfi-11)
  #:use-module (srfi srfi-34)
  #:use-module (srfi srfi-35)
  #:export (define-foreign
            foreign-procedure                     ;what it expands to: Guile 3.0.8 drops what is not exported
            define-typed
            check
            note-signature!
            signatures
            maybe
            list-of

            call
            call-for-handle
            call-for-integer
            call-for-size
            call-for-reply
            call-for-reasons
            call-interruptibly
            with-callback

            make-handle
            define-handle-predicate
            define-record
            handle?
            handle-type
            offload-free!

            name-of
            make-slot
            slot-pointer
            pointer->text
            pointer->bytes
            collect

            &guix-offload-error
            guix-offload-error?
            guix-offload-error-code
            guix-offload-error-machine
            guix-offload-error-hint
            guix-offload-error-lines
            guix-offload-error-warning-lines
            guix-offload-error-exit-status
            pointer->condition))


;;;
;;; The library.
;;;

;; `make install` writes the directories in, here and below.
(define %library-directory "@LIBDIR@")

(define %abi-version 1)                           ;what this binding was written for

(define (library-files)
  "Names of the shared library, to be tried in this order: GUIX_OFFLOAD_LIBRARY, which must end in '.so', if it is set;
else where it was installed; else beside this module, should the installation have been moved; else where the system
looks for libraries.  Only the one that ends in a number is always there, which Guile 2.2 does not take."
  (define here
    (search-path %load-path "guix-offload/foreign.scm"))
  (define numbered
    (string-append "libguix_offload.so." (number->string %abi-version)))
  (define installed
    (filter file-exists?
            (append-map (lambda (directory)
                          (list (string-append directory "/" numbered)
                                (string-append directory "/libguix_offload.so")))
                        (cons %library-directory
                              (if here
                                  (list (string-append (dirname here) "/@TO_LIBDIR@"))
                                  '())))))
  (cond ((getenv "GUIX_OFFLOAD_LIBRARY") => list)
        ((pair? installed) installed)
        (else (list numbered "libguix_offload"))))

(define (load-first files)
  "Load the first of FILES that can be loaded, and return it and its name, or fail with what is wrong with the last."
  (define (attempt file handler)
    (catch #t
      (lambda ()
        (cons (dynamic-link file) file))
      handler))
  (if (pair? (cdr files))
      (or (attempt (car files) (const #f))
          (load-first (cdr files)))
      (let ((file (car files)))
        (attempt file
                 (lambda (key . args)
                   (fail 'library
                         (format #f "cannot load '~a': ~a" file
                                 (string-trim-both
                                  (call-with-output-string
                                    (lambda (port)
                                      (print-exception port #f key args)))))
                         (if (file-exists? file)
                             (string-append "it must have been built on this system, or an older one, as must Guile: "
                                            "'ldd " file "' says what it lacks")
                             "set GUIX_OFFLOAD_LIBRARY to the file name of libguix_offload.so")))))))

;; Loaded by the first call, so that modules that use this one can always be loaded.
(define %library
  (delay
    (let* ((loaded (load-first (library-files)))
           (library (car loaded))
           (file (cdr loaded))
           (version ((pointer->procedure uint32 (dynamic-func "guix_offload_abi_version" library)
                                         '()))))
      (unless (= version %abi-version)
        (fail 'library (format #f "'~a' has ABI ~a, not ~a" file version %abi-version) #f))
      library)))


;;;
;;; Conditions.
;;;

(define-condition-type &guix-offload-error &error
  guix-offload-error?
  (code        guix-offload-error-code)           ;symbol
  (machine     guix-offload-error-machine)        ;string | #f
  (hint        guix-offload-error-hint)           ;string | #f
  (exit-status guix-offload-error-exit-status)    ;1 | 100 | 101, as a build hook would exit
  (lines       guix-offload-error-lines)          ;string, as a build hook would report it
  (warning     guix-offload-error-warning-lines)) ;string, as it would warn of it and go on

(for-each (lambda (procedure docstring)
            (set-procedure-property! procedure 'documentation docstring))
          (list guix-offload-error? guix-offload-error-code guix-offload-error-machine guix-offload-error-hint
                guix-offload-error-exit-status guix-offload-error-lines guix-offload-error-warning-lines)
          '("Is OBJECT a condition that says why a call failed?"
            "The kind of failure, a symbol: that of a guix_offload_status, or `library' if that cannot be loaded."
            "The name of the machine that an error is about; #f if there is none."
            "What to do about an error, a string; #f if that is not known."
            "The status with which a build hook that fails so exits: 1, 100 or 101."
            "The lines with which a build hook reports an error, a string."
            "The lines with which a build hook warns of an error and goes on, a string."))

(define (offload-condition code message machine hint status lines warning)
  (make-compound-condition
   (condition (&guix-offload-error (code code) (machine machine) (hint hint) (exit-status status)
                                   (lines lines) (warning warning)))
   (condition (&message (message message)))))

(define (fail code message hint)
  (define (lines what)
    (string-append "guix offload: " what ": " message "\n" (if hint (string-append "hint: " hint "\n") "")))
  (raise (offload-condition code message #f hint 1 (lines "error") (lines "warning"))))

(define (name-of get number)
  "The symbol for NUMBER, a value of an enum, by GET, the C function for its name."
  (string->symbol (pointer->text (get number))))


;;;
;;; Handles.
;;;

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

(define-syntax-rule (define-record type constructor (predicate predicate-doc) (field accessor docstring) ...)
  "Define a record TYPE, whose accessors are procedures with docstrings, as those of SRFI-9 need not be."
  (begin
    (define %type (make-record-type 'type '(field ...)))
    (define constructor (record-constructor %type))
    (define predicate
      (let ((is? (record-predicate %type)))
        (lambda (object)
          predicate-doc
          (is? object))))
    (define accessor
      (let ((get (record-accessor %type 'field)))
        (lambda (record)
          docstring
          (get record))))
    ...))

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


;;;
;;; Types of arguments.
;;;

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


;;;
;;; Calls.
;;;

(define (convert argument)
  "ARGUMENT, which is of the right type, as the foreign function interface takes it."
  (cond ((handle? argument) (handle-pointer argument))
        ((string? argument) (string->pointer argument "UTF-8"))
        ((bytevector? argument) (bytevector->pointer argument))
        ((not argument) %null-pointer)
        (else argument)))

;; What a call needs must not become garbage before it returns.
(define %in-use #f)

(define (foreign-procedure name return c-name types)
  (define procedure
    (delay (pointer->procedure return
                               (dynamic-func c-name (force %library))
                               (map (lambda (type) (if (integer? type) type '*)) types))))
  (define positions (iota (length types) 1))
  (lambda arguments
    (unless (= (length arguments) (length types))
      (scm-error 'wrong-number-of-args #f "Wrong number of arguments to ~A" (list name) #f))
    (for-each (lambda (position type argument)
                (check name (format #f "argument ~a" position) type argument))
              positions types arguments)
    (let* ((converted (map convert arguments))
           (result (apply (force procedure) converted)))
      (set! %in-use (cons arguments converted))
      (set! %in-use #f)
      result)))

(define-syntax-rule (define-foreign name return c-name type ...)
  "Define NAME as the C function C-NAME, with parameters of these types, which are checked."
  (define name (foreign-procedure 'name return c-name (list type ...))))

(define (make-slot size)
  (make-bytevector size 0))

(define (slot-pointer slot)
  (make-pointer (bytevector-uint-ref slot 0 (native-endianness) (sizeof '*))))

(define (call procedure . arguments)
  "Call PROCEDURE, whose last parameter, which is not among ARGUMENTS, is where an error goes.  Raise that."
  (let* ((slot (make-slot (sizeof '*)))
         (status (apply procedure (append arguments (list slot)))))
    (unless (zero? status)
      (let ((condition (pointer->condition (slot-pointer slot))))
        (error-free (slot-pointer slot))
        (raise condition)))))

(define (call-for-handle type free procedure . arguments)
  "As `call', for a PROCEDURE that puts a new handle where its first parameter points to."
  (let ((slot (make-slot (sizeof '*))))
    (apply call procedure slot arguments)
    (make-handle type (slot-pointer slot) #:free free)))

(define (call-for-integer procedure . arguments)
  "As `call', for a PROCEDURE that puts an int where its last parameter but one points to."
  (let ((slot (make-slot (sizeof int))))
    (apply call procedure (append arguments (list slot)))
    (bytevector-sint-ref slot 0 (native-endianness) (sizeof int))))

(define (call-for-size procedure . arguments)
  "As `call-for-integer', for a size_t."
  (let ((slot (make-slot (sizeof size_t))))
    (apply call procedure (append arguments (list slot)))
    (bytevector-uint-ref slot 0 (native-endianness) (sizeof size_t))))

(define (call-for-reply procedure . arguments)
  "As `call', for a PROCEDURE that puts a handle and an int where its first two parameters point to.  Return the int,
and a pointer which is NULL if there is no handle."
  (let ((handle (make-slot (sizeof '*)))
        (reply (make-slot (sizeof int32))))
    (apply call procedure handle reply arguments)
    (values (bytevector-s32-native-ref reply 0)
            (slot-pointer handle))))

(define (go-on key . args)
  "Raise again what was caught."
  ;; In Guile 3.0 this is the key of what `raise' raises, in 2.2 it is an ordinary one.
  (if (eq? key '%exception)
      (raise (first args))
      (apply throw key args)))

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

(define (call-for-reasons procedure . arguments)
  "As `call-for-reply', for a PROCEDURE whose third parameter is where it puts another handle.  Return a pointer to that
as the third value."
  (let* ((reasons (make-slot (sizeof '*)))
         (with-reasons (lambda (handle reply . arguments)
                         (apply procedure handle reply reasons arguments))))
    (let-values (((reply pointer) (apply call-for-reply with-reasons arguments)))
      (values reply pointer (slot-pointer reasons)))))

(define (with-callback types procedure body)
  "Call BODY with a C function that takes TYPES and calls PROCEDURE with what they are.  It cancels if PROCEDURE returns
#f or raises something, which goes on when BODY is done: nothing may jump over the frames of the library."
  (let* ((raised #f)
         (pointer (procedure->pointer int
                                      (lambda arguments
                                        (catch #t
                                          (lambda ()
                                            (if (apply procedure arguments) 0 1))
                                          (lambda exception
                                            (set! raised exception)
                                            1)))
                                      types)))
    (guard (c ((and raised (guix-offload-error? c))
               (apply go-on raised)))
      (call-with-values (lambda () (body pointer))
        (lambda results
          (when raised
            (apply go-on raised))
          (apply values results))))))


;;;
;;; What comes out.
;;;

(define (pointer->text pointer)
  "The text at POINTER, #f if that is NULL."
  (and (not (null-pointer? pointer))
       (pointer->string pointer -1 "UTF-8")))

(define (pointer->bytes pointer length)
  "A copy of the LENGTH bytes at POINTER, a bytevector; #f if that is NULL."
  (and (not (null-pointer? pointer))
       (bytevector-copy (pointer->bytevector pointer length))))

(define (collect nth)
  "The list of what NTH yields for 0, 1 ... until it yields #f."
  (let loop ((index 0) (result '()))
    (let ((next (nth index)))
      (if next
          (loop (+ index 1) (cons next result))
          (reverse result)))))

(define-foreign status-name '* "guix_offload_status_name" int32)
(define-foreign error-code int32 "guix_offload_error_code" 'pointer)
(define-foreign error-message '* "guix_offload_error_message" 'pointer)
(define-foreign error-machine '* "guix_offload_error_machine" 'pointer)
(define-foreign error-hint '* "guix_offload_error_hint" 'pointer)
(define-foreign error-exit-status int32 "guix_offload_error_exit_status" 'pointer)
(define-foreign error-lines '* "guix_offload_error_lines" 'pointer)
(define-foreign error-warning-lines '* "guix_offload_error_warning_lines" 'pointer)
(define-foreign error-free void "guix_offload_error_free" 'pointer)

(define (pointer->condition error)
  "The condition that the guix_offload_error at ERROR, which stays the caller's, describes."
  (offload-condition (name-of status-name (error-code error))
                     (pointer->text (error-message error))
                     (pointer->text (error-machine error))
                     (pointer->text (error-hint error))
                     (error-exit-status error)
                     (pointer->text (error-lines error))
                     (pointer->text (error-warning-lines error))))
