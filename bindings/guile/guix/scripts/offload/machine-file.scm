;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; The machine file, as the library reads it.
(define-module (guix scripts offload machine-file)
  #:use-module (guix config)
  #:use-module (guix diagnostics)
  #:use-module (guix ui)
  #:use-module (guix-offload)
  #:use-module (guix scripts offload records)
  #:use-module (guix scripts offload endings)
  #:use-module (srfi srfi-1)
  #:use-module (srfi srfi-35)
  #:export (%machine-file
            existing
            offer-this-guile!
            machine-handles
            distinct-machine-handles
            build-machines))

;; The library's own default follows the environment alone.  Only (guix config) knows where this Guix was configured to
;; have its files.
(define %machine-file
  (string-append %config-directory "/machines.scm"))

(define (existing file)
  "FILE, which must be there."
  (catch 'system-error
    (lambda ()
      (stat file)
      file)
    (lambda args
      (misuse "machine file '~a': ~a~%" file (strerror (system-error-errno args))))))

(define (offer-this-guile!)
  "Have the library evaluate a machine file with the Guile and the modules that run here, whatever is in PATH."
  (let ((guile (false-if-exception (readlink "/proc/self/exe"))))
    ;; The program may be one that only has Guile in it.
    (when (and guile
               (string-contains (basename guile) "guile")
               (not (getenv "GUIX_OFFLOAD_GUILE")))
      (setenv "GUIX_OFFLOAD_GUILE" guile)
      (setenv "GUILE_LOAD_PATH" (string-join %load-path ":"))
      (setenv "GUILE_LOAD_COMPILED_PATH" (string-join %load-compiled-path ":")))))

(define* (machine-handles file #:key (leave-out (const #t)))
  "The machines that FILE returns, as the library has them; there are none if it does not exist.  What is wrong is said.
LEAVE-OUT is called with the condition for each machine that is left out."
  (define (say condition)
    (warning (G_ "~a~%") (condition-message condition))
    (show-hint condition))
  (offer-this-guile!)
  (offload-load-machines file
                         #:report (lambda (condition)
                                    (say condition)
                                    (leave-out condition))
                         #:warn say))

(define (distinct-machine-handles file selected?)
  "The machines in FILE whose names are SELECTED?; those that are listed again, as for another system, only once.  The
second value is true if a machine that is selected was left out."
  (define left-out? #f)
  (define (leave-out condition)
    (let ((name (guix-offload-error-machine condition)))
      (when (or (not name) (selected? name))
        (set! left-out? #t))))
  (let ((handles (machine-handles file #:leave-out leave-out)))
    (values (delete-duplicates (filter (compose selected? offload-machine-name) handles) offload-machine=?)
            left-out?)))

(define* (build-machines #:optional (file %machine-file))
  "The list of build machines that FILE returns, as records."
  (with-offload-errors
   (map handle->machine (machine-handles file))))
