;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; Runs SRFI-64 tests and says on standard output what failed, without a log file.  The last form of a file of tests is
;; (finish), which exits with 1 if any failed.
(use-modules (srfi srfi-64))

(define (plain-runner)
  (let ((runner (test-runner-null)))
    (test-runner-on-test-end! runner
      (lambda (runner)
        (format #t "~a: ~a~%" (test-result-kind runner) (test-runner-test-name runner))
        (when (eq? 'fail (test-result-kind runner))
          (for-each (lambda (pair)
                      (format #t "    ~a: ~s~%" (car pair) (cdr pair)))
                    (test-result-alist runner)))))
    runner))

(define (finish)
  (let ((runner (test-runner-current)))
    (test-end)
    (format #t "~a passed, ~a failed~%" (test-runner-pass-count runner) (test-runner-fail-count runner))
    (force-output)
    (exit (and (zero? (test-runner-fail-count runner))
               (positive? (test-runner-pass-count runner))))))

(test-runner-current (plain-runner))
