;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; The engine, which all builds of a process share.
(define-module (guix-offload engine)
  #:use-module (guix-offload handles)
  #:use-module (guix-offload arguments)
  #:use-module (guix-offload foreign)
  #:use-module (system foreign)
  #:use-module (srfi srfi-1)
  #:export (offload-engine?
            make-offload-engine
            offload-engine-directory
            offload-engine-idle-limit))

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
