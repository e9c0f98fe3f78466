;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; What tests/guix/check asks about the package for Guix.
(use-modules (guix)
             (guix packages)
             ((guix build utils) #:select (find-files))
             (guix-offload-package)
             (ice-9 match)
             (ice-9 rdelim)
             (srfi srfi-1))

(define crates
  ((@@ (guix-offload-package) crates)))

(define (lines-with text file)
  (count (lambda (line) (string-contains line text))
         (string-split (call-with-input-file file read-string) #\newline)))

(define (add-crates store)
  "Add the crates that Cargo has fetched to STORE: each must be the very item that the package wants."
  (unless (= (length crates) (lines-with "checksum = " "Cargo.lock"))
    (error "the package has another number of crates than Cargo.lock:" (length crates)))
  (for-each
   (match-lambda
     ((origin name _)
      (let* ((here? (lambda (file stat)
                      (string=? (basename file) (string-append name ".crate"))))
             (file (match (find-files "/cargo/registry/cache" here?)
                     ((file _ ...) file)
                     (() (error "Cargo has not fetched" name))))
             (wanted (derivation->output-path (run-with-store store (lower-object origin)))))
        (unless (string=? wanted (add-to-store store (origin-file-name origin) #f "sha256" file))
          (error "the hash is another one than that of" file)))))
   crates))

(define (builder store output)
  "What guix-daemon runs to make OUTPUT of the package, but with the programs in /usr as its only input."
  (define (argument keyword)
    (let ((gexp (second (memq keyword (package-arguments guix-offload)))))
      (lowered-gexp-sexp (run-with-store store (lower-gexp gexp)))))
  (define source
    (run-with-store store (lower-object (package-source guix-offload))))
  `(begin
     (use-modules ,@(second (memq #:modules (package-arguments guix-offload))))
     (setenv "out" ,output)
     (gnu-build #:source ,source
                #:system ,(%current-system)
                #:inputs '(("source" . ,source) ("debian" . "/usr"))
                #:outputs '(("out" . ,output))
                #:make-flags ,(argument #:make-flags)
                #:phases ,(argument #:phases)
                #:tests? #f
                ;; Debian's linker looks into more directories than those.
                #:validate-runpath? #f)))

(match (command-line)
  ((_ "crates")
   (with-store store
     (add-crates store)))
  ((_ "builder" output)
   (with-store store
     (add-crates store)
     (write (builder store output)))))
