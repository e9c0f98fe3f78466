;;; SPDX-License-Identifier: GPL-3.0-or-later
;;; guix repl import.scm -- BUNDLE: has the daemon import the file BUNDLE, and prints the seconds that it took.
(use-modules (guix store) (ice-9 match))

(define (now) (match (gettimeofday) ((s . us) (+ s (/ us 1e6)))))

(with-store store
  (call-with-input-file (cadr (command-line))
    (lambda (port)
      (let ((start (now)))
        (import-paths store port)
        (format #t "~,3f~%" (- (now) start))))
    #:binary #t))
