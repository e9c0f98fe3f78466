;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; For Guix System: has guix-daemon offload through the package.
(define-module (guix-offload-service)
  #:use-module (gnu services)
  #:use-module (gnu services base)
  #:use-module (guix-offload-package)
  #:export (guix-offload-services))

;; Guix's service type has no extension of the daemon's environment.  That is a list of strings, which no file name in
;; the store can be part of; and the package is in the system profile anyway.  The daemon of the package 'guix' heeds
;; GUIX; that of 'guix-for-channels' sets it itself, but heeds extensions.  No 'guix' is in the PATH of either.
(define %environment
  (let ((profile "/run/current-system/profile"))
    (list (string-append "GUIX=" profile "/libexec/guix-offload")
          (string-append "GUIX_OFFLOAD_GUIX=" profile "/bin/guix")
          (string-append "GUIX_EXTENSIONS_PATH=" profile
                         "/share/guix/extensions"))))

(define* (guix-offload-services services #:key (package guix-offload))
  "Return SERVICES, which include guix-daemon's, such that the daemon offloads
through PACKAGE, and one more, which adds PACKAGE to the system profile.  A
variable that the configuration of the daemon sets itself keeps its value."
  (cons (simple-service 'guix-offload profile-service-type (list package))
        (modify-services services
          (guix-service-type
           config =>
           (guix-configuration
            (inherit config)
            (environment (append (guix-configuration-environment config)
                                 %environment)))))))
