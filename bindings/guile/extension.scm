;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; 'guix offload' as an extension of Guix, which comes before Guix's own command of that name: for any guix since 1.3.0
;; that has the directory of this file, PREFIX/share/guix/extensions, in GUIX_EXTENSIONS_PATH.
(define-module (guix extensions offload)
  #:export (guix-offload))

;; Guile shortens the names of files below its load path, and replace.scm needs to know where it is.
(with-fluids ((%file-port-name-canonicalization 'absolute))
  (primitive-load (string-append (dirname (current-filename)) "/@TO_PRIVATE@/replace.scm")))

(define guix-offload
  (module-ref (resolve-interface '(guix scripts offload)) 'guix-offload))
