;; SPDX-License-Identifier: GPL-3.0-or-later
;;
;; Reports on machines, and on none.
(define-module (guix-offload reports)
  #:use-module (guix-offload handles)
  #:use-module (guix-offload arguments)
  #:use-module (guix-offload foreign)
  #:use-module (system foreign)
  #:use-module (srfi srfi-1)
  #:export (offload-report?
            report-free
            offload-report-text
            offload-report-json
            offload-report-failures
            offload-report->list
            offload-machine-report?
            offload-machine-report-machine
            offload-machine-report-state
            offload-machine-report-reachable?
            offload-machine-report-error
            offload-machine-report-passed
            offload-machine-report-notes
            offload-machine-report-slots-taken
            offload-machine-report-load
            offload-machine-report-cores
            offload-machine-report-free-space
            offload-machine-report-clock-difference
            offload-machine-report-guix-version
            offload-machine-report-kernel
            offload-machine-report-architecture
            offload-machine-report-host-name))

(define-handle-predicate offload-report? 'report
  "Is OBJECT a report?")

(define-foreign report-free void "guix_offload_report_free" 'pointer)
(define-foreign report-count size_t "guix_offload_report_count" 'report)
(define-foreign report-machine '* "guix_offload_report_machine" 'report size_t)
(define-foreign report-error '* "guix_offload_report_error" 'report size_t)
(define-foreign report-passed '* "guix_offload_report_passed" 'report size_t size_t)
(define-foreign report-note '* "guix_offload_report_note" 'report size_t size_t)
(define-foreign report-note-hint '* "guix_offload_report_note_hint" 'report size_t size_t)
(define-foreign report-state '* "guix_offload_report_state" 'report size_t)
(define-foreign report-reachable int32 "guix_offload_report_reachable" 'report size_t)
(define-foreign report-slots-taken int64 "guix_offload_report_slots_taken" 'report size_t)
(define-foreign report-load double "guix_offload_report_load" 'report size_t)
(define-foreign report-cores uint32 "guix_offload_report_cores" 'report size_t)
(define-foreign report-free-space uint64 "guix_offload_report_free_space" 'report size_t)
(define-foreign report-clock-difference int64 "guix_offload_report_clock_difference" 'report size_t)
(define-foreign report-guix-version '* "guix_offload_report_guix_version" 'report size_t)
(define-foreign report-kernel '* "guix_offload_report_kernel" 'report size_t)
(define-foreign report-architecture '* "guix_offload_report_architecture" 'report size_t)
(define-foreign report-host-name '* "guix_offload_report_host_name" 'report size_t)

(define-getters identity size_t 'report
  (offload-report-failures "guix_offload_report_failures"
    "How many machines of a report failed."))

(define-getters pointer->text '* 'report
  (offload-report-text "guix_offload_report_text"
    "A report for people, a string.")
  (offload-report-json "guix_offload_report_json"
    "A report for programs: a line of JSON."))

(define-record <offload-machine-report> make-machine-report
  (offload-machine-report? "Is OBJECT the report on one machine?")
  (machine offload-machine-report-machine
    "The machine.")
  (state offload-machine-report-state
    "In a word or two, whether it gets builds: a string.")
  (reachable? offload-machine-report-reachable?
    "Was it connected to?")
  (error offload-machine-report-error
    "Why it failed, a condition; #f if it did not.")
  (passed offload-machine-report-passed
    "Sentences about what works, a list of strings.")
  (notes offload-machine-report-notes
    "What is odd, a list of pairs: a string, and what to do about it, a string or #f.")
  (slots-taken offload-machine-report-slots-taken
    "How many of its build slots are taken; #f if that is not known.")
  (load offload-machine-report-load
    "Its load, divided by its number of cores; #f if that is not known.")
  (cores offload-machine-report-cores
    "The number of its cores; #f if that is not known.")
  (free-space offload-machine-report-free-space
    "The free space where its store is, in bytes; #f if that is not known.")
  (clock-difference offload-machine-report-clock-difference
    "By how many seconds its clock is ahead of ours; #f if that is not known.")
  (guix-version offload-machine-report-guix-version
    "The version of its Guix; #f if that is not known.")
  (kernel offload-machine-report-kernel
    "Its kernel; #f if that is not known.")
  (architecture offload-machine-report-architecture
    "Its hardware, such as \"x86_64\"; #f if that is not known.")
  (host-name offload-machine-report-host-name
    "The host name that it gives itself; #f if that is not known."))

(define-typed (offload-report->list report)
  "REPORT as a list of <offload-machine-report>, one for each machine."
  ((report 'report))
  (define (entry index)
    (define reachable? (= 1 (report-reachable report index)))
    (define (text get) (pointer->text (get report index)))
    (define (number get) (and reachable? (get report index)))
    (define error (report-error report index))
    (make-machine-report
     (make-handle 'machine (report-machine report index) #:owner report)
     (text report-state)
     reachable?
     (and (not (null-pointer? error)) (pointer->condition error))
     (texts report-passed report index)
     (collect (lambda (number)
                (let ((note (pointer->text (report-note report index number))))
                  (and note
                       (cons note (pointer->text (report-note-hint report index number)))))))
     (let ((taken (report-slots-taken report index)))
       (and (>= taken 0) taken))
     (number report-load)
     (number report-cores)
     (number report-free-space)
     (number report-clock-difference)
     (text report-guix-version)
     (text report-kernel)
     (text report-architecture)
     (text report-host-name)))
  (map entry (iota (report-count report))))
