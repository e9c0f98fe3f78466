;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; The records of Guix's own module: machines, and what a build requires of one.
(define-module (guix scripts offload records)
  #:use-module (guix records)
  #:use-module (guix diagnostics)
  #:use-module (guix ui)
  #:use-module (guix-offload)
  #:use-module (srfi srfi-1)
  #:export (build-machine
            build-machine?
            build-machine-name
            build-machine-port
            build-machine-systems
            %build-machine-systems
            build-machine-system
            %build-machine-system
            build-machine-user
            build-machine-private-key
            build-machine-host-key
            build-machine-compression
            build-machine-compression-level
            build-machine-daemon-socket
            build-machine-overload-threshold
            build-machine-parallel-builds
            build-machine-speed
            build-machine-features
            build-machine-location
            build-requirements
            build-requirements?
            build-requirements-system
            build-requirements-features
            machine-matches?
            home-directory
            user-openssh-private-key
            handle->machine))

(define (home-directory)
  "The home directory of the user whose rights this process has.  The environment may still have somebody else's."
  (passwd:dir (getpwuid (geteuid))))

(define (user-openssh-private-key)
  "The private key to log in with where a machine names none: as the library has it, the first that exists of two."
  (let ((keys (map (lambda (name)
                     (string-append (home-directory) "/.ssh/" name))
                   '("id_ed25519" "id_rsa"))))
    (or (find file-exists? keys) (first keys))))

(define-record-type* <build-machine>
  build-machine make-build-machine
  build-machine?
  (name               build-machine-name)
  (port               build-machine-port
                      (default 22))
  (systems            %build-machine-systems      ;list of strings
                      (default #f))
  (system             %build-machine-system       ;string, deprecated
                      (default #f))
  (user               build-machine-user)
  (private-key        build-machine-private-key   ;file name
                      (default (user-openssh-private-key)))
  (host-key           build-machine-host-key)     ;"ssh-ed25519 AAAA..."
  (compression        build-machine-compression
                      (default "zlib@openssh.com,zlib"))
  (compression-level  build-machine-compression-level
                      (default 3))
  (daemon-socket      build-machine-daemon-socket ;file name
                      (default "/var/guix/daemon-socket/socket"))
  (overload-threshold build-machine-overload-threshold ;real | #f
                      (default 0.8))
  (parallel-builds    build-machine-parallel-builds
                      (default 1))
  (speed              build-machine-speed         ;real
                      (default 1.0))
  (features           build-machine-features      ;list of strings
                      (default '()))
  (location           build-machine-location
                      (default (and=> (current-source-location)
                                      source-properties->location))
                      (innate)))

(define (build-machine-system machine)
  (warning (build-machine-location machine)
           (G_ "The 'system' field is deprecated, please use 'systems' instead.~%"))
  (%build-machine-system machine))

(define (build-machine-systems machine)
  "The list of systems that MACHINE builds for, given by its field 'systems' or the older 'system'."
  (cond ((%build-machine-systems machine))
        ((%build-machine-system machine)
         (list (build-machine-system machine)))
        (else
         (leave (build-machine-location machine)
                (G_ "machine '~a' has no value for its field 'systems'~%")
                (build-machine-name machine)))))

(define-record-type* <build-requirements>
  build-requirements make-build-requirements
  build-requirements?
  (system   build-requirements-system)
  (features build-requirements-features
            (default '())))

(define (machine-matches? machine requirements)
  "Does MACHINE offer the system and all the features in REQUIREMENTS?"
  (and (member (build-requirements-system requirements) (build-machine-systems machine))
       (every (lambda (feature)
                (member feature (build-machine-features machine)))
              (build-requirements-features requirements))))

(define (handle->machine handle)
  "The record of a machine that the library has."
  (build-machine (name (offload-machine-name handle))
                 (port (offload-machine-port handle))
                 (systems (offload-machine-systems handle))
                 (user (offload-machine-user handle))
                 (private-key (offload-machine-private-key handle))
                 (host-key (offload-machine-host-key handle))
                 (compression (offload-machine-compression handle))
                 (compression-level (offload-machine-compression-level handle))
                 (daemon-socket (offload-machine-daemon-socket handle))
                 (overload-threshold (offload-machine-overload-threshold handle))
                 (parallel-builds (offload-machine-parallel-builds handle))
                 (speed (offload-machine-speed handle))
                 (features (offload-machine-features handle))
                 (location #f)))
