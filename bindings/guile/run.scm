;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; Runs 'guix offload' with our module: a script for 'guix repl', to be named by its full name.
(use-modules ((guix ui) #:select (program-name))
             (ice-9 match))

(match (command-line)
  ((script . arguments)
   ;; Guile shortens the names of files below its load path, and replace.scm needs to know where it is.
   (with-fluids ((%file-port-name-canonicalization 'absolute))
     (primitive-load (string-append (dirname script) "/replace.scm")))
   (parameterize ((program-name 'offload))
     (apply (module-ref (resolve-interface '(guix scripts offload)) 'guix-offload) arguments))))
