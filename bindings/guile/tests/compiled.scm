;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; Fails unless the modules below (guix-offload) that are loaded are compiled, all of them, and handles work.  Needs the
;; library, and the directory of what was compiled in GUILE_LOAD_COMPILED_PATH.
(use-modules (guix-offload)
             (ice-9 ftw)
             (ice-9 textual-ports)
             (srfi srfi-1))

(define machine
  (make-offload-machine "m" "u" "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiI"))

(unless (and (offload-machine? machine) (not (offload-engine? machine))
             (equal? "m" (offload-machine-name machine))
             (string-prefix? "#<guix-offload machine " (object->string machine)))
  (error "handles do not work"))

(let* ((directory (dirname (search-path %load-path "guix-offload/foreign.scm")))
       (loaded (call-with-input-file "/proc/self/maps" get-string-all))
       (interpreted (remove (lambda (name)
                              (string-contains loaded (string-append "/guix-offload/" (basename name ".scm") ".go")))
                            (scandir directory (lambda (name) (string-suffix? ".scm" name))))))
  (unless (null? interpreted)
    (error "these are not compiled:" interpreted)))
