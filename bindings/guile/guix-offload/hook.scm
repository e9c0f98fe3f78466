;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; The build hook, as a procedure.
(define-module (guix-offload hook)
  #:use-module (guix-offload handles)
  #:use-module (guix-offload arguments)
  #:use-module (guix-offload foreign)
  #:use-module (guix-offload cancellation)
  #:use-module (guix-offload machines)
  #:use-module (system foreign)
  #:export (offload-hook?
            make-offload-hook
            offload-serve-hook))

(define-handle-predicate offload-hook? 'hook
  "Is OBJECT a build hook?")

(define-foreign hook-new int "guix_offload_hook_new" 'out 'engine 'out)
(define-foreign hook-free void "guix_offload_hook_free" 'pointer)
(define-foreign hook-set-machine-file int "guix_offload_hook_set_machine_file" 'hook 'string 'out)
(define-foreign hook-set-machines int "guix_offload_hook_set_machines" 'hook 'machines 'out)
(define-foreign hook-set-limits int "guix_offload_hook_set_limits" 'hook uint64 uint64 'out)
(define-foreign hook-set-build-trace int "guix_offload_hook_set_build_trace" 'hook int 'out)
(define-foreign hook-serve int "guix_offload_hook_serve_cancellable"
  'hook int int int 'out '(maybe cancellation) 'out)

(define-typed (make-offload-hook engine #:key machine-file evaluate (timeout 0) (max-silent-time 0) print-build-trace?)
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

(define-typed (offload-serve-hook hook input output log #:optional cancellation)
  "Serve guix-daemon's requests on the descriptors INPUT and OUTPUT, with the build log going to LOG.  Return the status
to exit with.  Only with a CANCELLATION are signals handled meanwhile."
  ((hook 'hook) (input int) (output int) (log int) (cancellation (maybe 'cancellation)))
  (define (serve cancellation)
    (call-for-integer (lambda (hook input output log status error)
                        (hook-serve hook input output log status cancellation error))
                      hook input output log))
  ;; A hook is a process that is killed by signals.  It has no use for another thread.
  (if cancellation
      (call-stoppably serve cancellation)
      (serve #f)))
