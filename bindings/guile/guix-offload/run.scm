;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; Runs 'guix offload' with the modules beside this file: a script for 'guix repl'.
;;
;; The module is loaded from its source, by name: looked up, it might lose to a compiled one of Guix that is younger.
(let ((directory (dirname (dirname (current-filename)))))
  (set! %load-path (cons directory %load-path))
  (primitive-load (string-append directory "/guix/scripts/offload.scm")))

(apply (@ (guix ui) run-guix-command) 'offload (cdr (command-line)))
