;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; The shared library: calls into it, and what comes out of them.  For Guile 2.2 and 3.0.
(define-module (guix-offload foreign)
  #:use-module (guix-offload conditions)
  #:use-module (guix-offload handles)
  #:use-module (guix-offload arguments)
  #:use-module (system foreign)
  #:use-module (rnrs bytevectors)
  #:use-module (srfi srfi-1)
  #:use-module (srfi srfi-11)
  #:use-module (srfi srfi-34)
  #:export (define-foreign
            foreign-procedure                     ;what it expands to: Guile 3.0.8 drops what is not exported
            define-getters
            define-record

            call
            call-for-handle
            call-for-integer
            call-for-size
            call-for-reply
            call-for-reasons
            with-callback

            make-slot
            slot-pointer
            pointer->text
            pointer->bytes
            pointer->condition
            name-of
            collect
            texts
            conditions

            offload-version))

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

(define (name-of get number)
  "The symbol for NUMBER, a value of an enum, by GET, the C function for its name."
  (string->symbol (pointer->text (get number))))

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

(define-foreign version '* "guix_offload_version")

(define (offload-version)
  "The version of the library, a string."
  (pointer->text (version)))
