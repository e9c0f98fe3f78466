;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; A system with the service for Guix System.
(use-modules (gnu) (guix-offload-service))
(use-service-modules networking ssh)

(operating-system
  (host-name "head")
  (bootloader (bootloader-configuration
                (bootloader grub-bootloader)
                (targets '("/dev/sdX"))))
  (file-systems (cons (file-system
                        (device (file-system-label "root"))
                        (mount-point "/")
                        (type "ext4"))
                      %base-file-systems))
  (services (guix-offload-services %base-services)))
