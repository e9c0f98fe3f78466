;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; Replaces Guix's (guix scripts offload) by ours in the process that loads this file: the directory that has nothing
;; but that module, its parts and its binding comes first in Guile's load path, and the module is loaded, so that nobody
;; looks for Guix's any more.
;;
;; It is loaded by its file name: looked up, the source might lose to a compiled module of Guix that is younger.  What
;; was compiled for another version of Guix may refer to what this one does not have, and is left alone.
(use-modules ((guix config) #:select (%guix-version)))

(let* ((here (dirname (current-filename)))
       (modules (string-append here "/guile"))
       (compiled (string-append here "/@TO_PRIVATE_CCACHE@/" (effective-version)))
       (for-guix (string-append compiled "/for-guix-" %guix-version))
       (ours (string-append for-guix "/guix/scripts/offload.go")))
  (set! %load-path (cons modules %load-path))
  (set! %load-compiled-path (cons* for-guix compiled %load-compiled-path))
  (save-module-excursion
   (lambda ()
     (if (file-exists? ours)
         (load-compiled ours)
         (primitive-load (string-append modules "/guix/scripts/offload.scm"))))))
