;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; Prints what (guix scripts offload) exports, a name a line, and what of it is found that callers reach for with @@.
(use-modules (srfi srfi-1))

(define %private
  ;; What Guix's own tests use.
  '(machine-matches? build-requirements-system build-requirements-features build-machine-system build-machine-systems
    %build-machine-system %build-machine-systems build-machine-features
    ;; What else makes sense to anybody.
    build-machines %machine-file build-machine-compression-level build-machine-parallel-builds build-machine-speed
    user-openssh-private-key check-machine-availability check-machine-status))

(define interface (resolve-interface '(guix scripts offload)))
(define module (resolve-module '(guix scripts offload)))

(for-each (lambda (name) (format #t "~a~%" name))
          (sort (module-map (lambda (name variable) name) interface)
                (lambda (a b) (string<? (symbol->string a) (symbol->string b)))))
(for-each (lambda (name) (format #t "private: ~a~%" name))
          (filter (lambda (name) (module-variable module name)) %private))
