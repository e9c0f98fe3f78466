;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; Build machines, and lists of them.
(define-module (guix-offload machines)
  #:use-module (guix-offload handles)
  #:use-module (guix-offload arguments)
  #:use-module (guix-offload foreign)
  #:use-module (guix-offload cancellation)
  #:use-module (system foreign)
  #:export (offload-machine?
            make-offload-machine
            offload-machine-name
            offload-machine-port
            offload-machine-user
            offload-machine-private-key
            offload-machine-host-key
            offload-machine-compression
            offload-machine-compression-level
            offload-machine-daemon-socket
            offload-machine-parallel-builds
            offload-machine-speed
            offload-machine-overload-threshold
            offload-machine-systems
            offload-machine-features
            offload-machine=?
            offload-load-machines
            call-with-machines
            load-machines))

(define-handle-predicate offload-machine? 'machine
  "Is OBJECT a build machine?")

(define-foreign machine-new int "guix_offload_machine_new" 'out 'string '(maybe string) 'string 'string 'out)
(define-foreign machine-free void "guix_offload_machine_free" 'pointer)
(define-foreign add-system int "guix_offload_machine_add_system" 'machine 'string 'out)
(define-foreign add-feature int "guix_offload_machine_add_feature" 'machine 'string 'out)
(define-foreign set-port int "guix_offload_machine_set_port" 'machine uint32 'out)
(define-foreign set-private-key int "guix_offload_machine_set_private_key" 'machine 'string 'out)
(define-foreign set-compression int "guix_offload_machine_set_compression" 'machine 'string uint32 'out)
(define-foreign set-daemon-socket int "guix_offload_machine_set_daemon_socket" 'machine 'string 'out)
(define-foreign set-parallel-builds int "guix_offload_machine_set_parallel_builds" 'machine uint32 'out)
(define-foreign set-speed int "guix_offload_machine_set_speed" 'machine double 'out)
(define-foreign set-overload-threshold int "guix_offload_machine_set_overload_threshold" 'machine double 'out)

(define-typed (make-offload-machine name user host-key
                       #:key (systems '()) (features '()) port private-key
                       compression (compression-level 3) daemon-socket parallel-builds speed
                       (overload-threshold 0.8))
  "A build machine.  What is #f has Guix's default; an OVERLOAD-THRESHOLD of #f means that any load is fine."
  ((name 'string) (user 'string) (host-key 'string) (systems (list-of 'string)) (features (list-of 'string))
   (port (maybe uint32)) (private-key (maybe 'string)) (compression (maybe 'string)) (compression-level uint32)
   (daemon-socket (maybe 'string)) (parallel-builds (maybe uint32)) (speed (maybe double))
   (overload-threshold (maybe double)))
  (let ((machine (call-for-handle 'machine machine-free machine-new name #f user host-key)))
    (define (set setter value)
      (when value
        (call setter machine value)))
    (for-each (lambda (system) (call add-system machine system)) systems)
    (for-each (lambda (feature) (call add-feature machine feature)) features)
    (set set-port port)
    (set set-private-key private-key)
    (when compression
      (call set-compression machine compression compression-level))
    (set set-daemon-socket daemon-socket)
    (set set-parallel-builds parallel-builds)
    (set set-speed speed)
    (call set-overload-threshold machine (or overload-threshold -1))
    machine))

(define-getters pointer->text '* 'machine
  (offload-machine-name "guix_offload_machine_name"
    "The host name or address of a machine.")
  (offload-machine-user "guix_offload_machine_user"
    "The account that is logged in to on a machine.")
  (offload-machine-private-key "guix_offload_machine_private_key"
    "The file with the private key for a machine.")
  (offload-machine-host-key "guix_offload_machine_host_key"
    "The only host key that is accepted from a machine.")
  (offload-machine-compression "guix_offload_machine_compression"
    "The compression methods that may be used with a machine, a comma-separated list.")
  (offload-machine-daemon-socket "guix_offload_machine_daemon_socket"
    "The socket of a machine's daemon."))

(define-getters identity uint32 'machine
  (offload-machine-port "guix_offload_machine_port"
    "The port of a machine's SSH server.")
  (offload-machine-compression-level "guix_offload_machine_compression_level"
    "The compression level for a machine, 0 to 9.")
  (offload-machine-parallel-builds "guix_offload_machine_parallel_builds"
    "How many builds may run on a machine at once."))

(define-getters identity double 'machine
  (offload-machine-speed "guix_offload_machine_speed"
    "How fast a machine is, compared with others."))

(define-foreign machine-is-same int "guix_offload_machine_is_same" 'machine 'machine)
(define-foreign overload-threshold double "guix_offload_machine_overload_threshold" 'machine)
(define-foreign nth-system '* "guix_offload_machine_system" 'machine size_t)
(define-foreign nth-feature '* "guix_offload_machine_feature" 'machine size_t)

(define-typed (offload-machine-overload-threshold machine)
  "The load from which on MACHINE takes no more builds, #f if there is none."
  ((machine 'machine))
  (let ((load (overload-threshold machine)))
    (and (>= load 0) load)))

(define-typed (offload-machine=? machine other)
  "Whether OTHER is the same machine as MACHINE, perhaps listed for other systems: one with the same name and port."
  ((machine 'machine) (other 'machine))
  (= 1 (machine-is-same machine other)))

(define-typed (offload-machine-systems machine)
  "The system types that MACHINE builds for."
  ((machine 'machine))
  (texts nth-system machine))

(define-typed (offload-machine-features machine)
  "The features that MACHINE offers."
  ((machine 'machine))
  (texts nth-feature machine))

(define-foreign machines-new int "guix_offload_machines_new" 'out 'out)
(define-foreign machines-load-cancellable int "guix_offload_machines_load_cancellable"
  'out '(maybe string) '(maybe cancellation) 'out)
(define-foreign machines-free void "guix_offload_machines_free" 'pointer)
(define-foreign machines-add int "guix_offload_machines_add" 'machines 'machine 'out)
(define-foreign machines-get '* "guix_offload_machines_get" 'machines size_t)
(define-foreign machines-problem '* "guix_offload_machines_problem" 'machines size_t)
(define-foreign machines-left-out size_t "guix_offload_machines_left_out" 'machines)
(define-foreign machines-are-current int "guix_offload_machines_are_current" 'machines)

(define (load-machines file cancellation)
  "A C list of the machines that the machine file FILE returns."
  (call-stoppably (lambda (cancellation)
                    (call-for-handle 'machines machines-free machines-load-cancellable file cancellation))
                  cancellation))

(define-typed (offload-load-machines #:optional file #:key (report (const #t)) (warn report) cancellation)
  "The list of machines that the machine file FILE returns, by default the one that Guix reads: as the library reads it.
One that is more than plain data is evaluated by another Guile process.  A machine that is malformed is left out: REPORT
is called with a condition that says why.  WARN is called with one for what is odd in a machine that is used all the
same.  The second value is a thunk that tells whether FILE would return the same now."
  ((file (maybe 'string)) (report 'procedure) (warn 'procedure) (cancellation (maybe 'cancellation)))
  (let* ((machines (load-machines file cancellation))
         (problems (conditions machines-problem machines))
         (left-out (machines-left-out machines)))
    (for-each report (list-head problems left-out))
    (for-each warn (list-tail problems left-out))
    (values (collect (lambda (index)
                       (make-handle 'machine (machines-get machines index) #:owner machines)))
            (lambda ()
              (= 1 (machines-are-current machines))))))

(define (call-with-machines machines proc)
  "Call PROC with a C list of MACHINES, a list of handles."
  (let ((list (call-for-handle 'machines machines-free machines-new)))
    (for-each (lambda (machine) (call machines-add list machine)) machines)
    (call-with-values (lambda () (proc list))
      (lambda results
        (offload-free! list)
        (apply values results)))))
