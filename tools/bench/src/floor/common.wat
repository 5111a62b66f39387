;; The common part of the floor's modules. floor.rs puts it in front of each module, followed by the constants and the flags. The flags
;; select the host calls of an engine and a configuration:
;;   $is_router      the engine is the router engine, not the filter engine
;;   $reads_answers  tokens are counted and the starts of streams are read: not with `usage: false` and `retry.stream_start: 0s`
;;   $everything     prices, limits of clients, client names and `headers.why` are on

;; The host calls.
(import "env" "proxy_get_header_map_pairs" (func $get_header_map_pairs (param i32 i32 i32) (result i32)))
(import "env" "proxy_get_header_map_value" (func $get_header_map_value (param i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_replace_header_map_value" (func $replace_header_map_value (param i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_remove_header_map_value" (func $remove_header_map_value (param i32 i32 i32) (result i32)))
(import "env" "proxy_get_buffer_bytes" (func $get_buffer_bytes (param i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_get_property" (func $get_property (param i32 i32 i32 i32) (result i32)))
(import "env" "proxy_set_property" (func $set_property (param i32 i32 i32 i32) (result i32)))
(import "env" "proxy_get_shared_data" (func $get_shared_data (param i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_set_shared_data" (func $set_shared_data (param i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_get_current_time_nanoseconds" (func $get_current_time (param i32) (result i32)))

;; The ABI's numbers for header maps, buffers, and the two results of a callback: continue or pause.
(global $request_headers i32 (i32.const 0))
(global $response_headers i32 (i32.const 2))
(global $request_body i32 (i32.const 0))
(global $response_body i32 (i32.const 1))
(global $continue i32 (i32.const 0))
(global $pause i32 (i32.const 1))

;; The addresses that host calls write their results to: the data's address, its size, the number for compare-and-swap, and the time.
(global $data i32 (i32.const 0))
(global $size i32 (i32.const 4))
(global $cas i32 (i32.const 8))
(global $time i32 (i32.const 16))

;; The data from host calls is in the second page and after it, and is kept for sixteen requests. The load has sixteen connections,
;; so a balancer holds that many requests at a time, each with its own copy of the body.
(memory (export "memory") 512)
(global $heap i32 (i32.const 65536))
(global $free (mut i32) (i32.const 65536))
(func (export "proxy_on_memory_allocate") (param $wanted i32) (result i32)
  (local $at i32)
  (local.set $at (global.get $free))
  (global.set $free (i32.add (local.get $at) (local.get $wanted)))
  (local.get $at))
(global $requests (mut i32) (i32.const 0))
(func $begin
  (global.set $requests (i32.add (global.get $requests) (i32.const 1)))
  (if (i32.eqz (i32.and (global.get $requests) (i32.const 15)))
    (then (global.set $free (global.get $heap)))))

;; A failed host call could look cheap. The module traps instead, and the request is not served.
(func $do (param $status i32) (if (local.get $status) (then unreachable)))

;; Reads the part of the request's body that Envoy holds.
(func $read_request_body (param $held i32)
  (call $do (call $get_buffer_bytes (global.get $request_body) (i32.const 0) (local.get $held)
    (global.get $data) (global.get $size))))

;; Reads an attempt's answer, for its outcome.
(func $read_answer
  (if (i32.and (global.get $reads_answers) (i32.eqz (global.get $everything)))
    ;; All headers: they have the status, and show whether the answer is a stream, whose start the balancer would read.
    (then (call $do (call $get_header_map_pairs (global.get $response_headers) (global.get $data) (global.get $size))))
    ;; Only the status, because the answer's start is not read. With everything on, the request's body showed that no stream is wanted.
    (else (call $do (call $get_header_map_value (global.get $response_headers)
      (global.get $status) (global.get $status.size) (global.get $data) (global.get $size))))))

;; Changes a value that workers share, by compare-and-swap. The module has a copy of the value, and counts the changes in the eight bytes
;; after the first one. This takes one host call, because the module foresees the number of its next swap: Envoy numbers the changes of
;; all values together, and one worker makes all of them. The number is unknown before a value's first change, and wrong after a change
;; by somebody else. Then the module sets the value anyway, and reads its number.
(global $last_change (mut i32) (i32.const 0))
(func $change (param $key i32) (param $key.size i32) (param $value i32) (param $value.size i32) (param $number_at i32)
  (local $number i32)
  (local.set $number (i32.load (local.get $number_at)))
  (i64.store offset=1 (local.get $value) (i64.add (i64.load offset=1 (local.get $value)) (i64.const 1)))
  (block $changed
    (if (local.get $number) (then
      (br_if $changed (i32.eqz (call $set_shared_data (local.get $key) (local.get $key.size)
        (local.get $value) (local.get $value.size) (local.get $number))))))
    (call $do (call $set_shared_data (local.get $key) (local.get $key.size)
      (local.get $value) (local.get $value.size) (i32.const 0)))
    (call $do (call $get_shared_data (local.get $key) (local.get $key.size)
      (global.get $data) (global.get $size) (global.get $cas)))
    (global.set $last_change (i32.sub (i32.load (global.get $cas)) (i32.const 1))))
  (global.set $last_change (i32.add (global.get $last_change) (i32.const 1)))
  (i32.store (local.get $number_at) (global.get $last_change)))

;; Draws the request's turn. $choice and $choice.size then have the entry for that turn from the table $choices. There are three entries,
;; one per cluster: with a single cluster, Envoy would do less work than beside the balancer.
(global $choice (mut i32) (i32.const 0))
(global $choice.size (mut i32) (i32.const 0))
(func $draw_turn
  (local $entry i32)
  (call $change (global.get $turns_key) (global.get $turns_key.size)
    (global.get $turns) (global.get $turns.size) (global.get $turns_number))
  (local.set $entry (i32.add (global.get $choices)
    (i32.mul (i32.const 8) (i32.wrap_i64 (i64.rem_u (i64.load offset=1 (global.get $turns)) (i64.const 3))))))
  (global.set $choice (i32.load (local.get $entry)))
  (global.set $choice.size (i32.load offset=4 (local.get $entry))))

;; Changes the client's account, whose limits depend on the time.
(func $change_account
  (call $do (call $get_current_time (global.get $time)))
  (call $change (global.get $account_key) (global.get $account_key.size)
    (global.get $account) (global.get $account.size) (global.get $account_number)))

;; The callbacks of a context's life, as the balancer exports them.
(func (export "proxy_abi_version_0_2_1"))
(func (export "proxy_on_vm_start") (param i32 i32) (result i32) (i32.const 1))
(func (export "proxy_on_configure") (param i32 i32) (result i32) (i32.const 1))
(func (export "proxy_on_context_create") (param i32 i32))
(func (export "proxy_on_delete") (param i32))
