;; The common part of the floor's modules. floor.rs puts it in front of each module, followed by the constants.

;; The host calls.
(import "env" "proxy_get_header_map_pairs" (func $get_header_map_pairs (param i32 i32 i32) (result i32)))
(import "env" "proxy_replace_header_map_value" (func $replace_header_map_value (param i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_remove_header_map_value" (func $remove_header_map_value (param i32 i32 i32) (result i32)))
(import "env" "proxy_get_buffer_bytes" (func $get_buffer_bytes (param i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_get_property" (func $get_property (param i32 i32 i32 i32) (result i32)))
(import "env" "proxy_set_property" (func $set_property (param i32 i32 i32 i32) (result i32)))
(import "env" "proxy_get_shared_data" (func $get_shared_data (param i32 i32 i32 i32 i32) (result i32)))
(import "env" "proxy_set_shared_data" (func $set_shared_data (param i32 i32 i32 i32 i32) (result i32)))

;; The ABI's numbers for header maps, buffers, and the two results of a callback: continue or pause.
(global $request_headers i32 (i32.const 0))
(global $response_headers i32 (i32.const 2))
(global $request_body i32 (i32.const 0))
(global $response_body i32 (i32.const 1))
(global $continue i32 (i32.const 0))
(global $pause i32 (i32.const 1))

;; The addresses that host calls write their results to: the data's address, its size, and the number for compare-and-swap.
(global $data i32 (i32.const 0))
(global $size i32 (i32.const 4))
(global $cas i32 (i32.const 8))

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

;; Creates the turn counter in the balancer's format: a version, the next turn, and the edition of the backends' health, in 13 bytes.
(func $create_turns
  (call $do (call $set_shared_data (global.get $turns) (global.get $turns.size)
    (global.get $first_turn) (global.get $first_turn.size) (i32.const 0))))

;; This worker's copy of the turn counter, and the number for the next compare-and-swap. The swap fails if another worker has stored
;; a turn since.
(global $turns_now i32 (i32.const 16))
(global $turns_number (mut i32) (i32.const 0))

;; Stores the next turn. This takes one host call if the worker's copy is current. If not, it first reads the counter. $choice and
;; $choice.size then have the entry for that turn from the table $choices. There are three entries, one per cluster: with a single
;; cluster, Envoy would do less work than beside the balancer.
(global $choice (mut i32) (i32.const 0))
(global $choice.size (mut i32) (i32.const 0))
(func $draw_turn (param $choices i32)
  (local $turn i64) (local $entry i32)
  (block $drawn
    (if (global.get $turns_number) (then (br_if $drawn (i32.eqz (call $store_next_turn)))))
    (call $do (call $get_shared_data (global.get $turns) (global.get $turns.size)
      (global.get $data) (global.get $size) (global.get $cas)))
    (memory.copy (global.get $turns_now) (i32.load (global.get $data)) (i32.load (global.get $size)))
    (global.set $turns_number (i32.load (global.get $cas)))
    (call $do (call $store_next_turn)))
  (local.set $turn (i64.load offset=1 (global.get $turns_now)))
  (local.set $entry (i32.add (local.get $choices)
    (i32.mul (i32.const 8) (i32.wrap_i64 (i64.rem_u (local.get $turn) (i64.const 3))))))
  (global.set $choice (i32.load (local.get $entry)))
  (global.set $choice.size (i32.load offset=4 (local.get $entry))))

(func $store_next_turn (result i32)
  (local $status i32)
  (i64.store offset=1 (global.get $turns_now) (i64.add (i64.load offset=1 (global.get $turns_now)) (i64.const 1)))
  (local.set $status (call $set_shared_data (global.get $turns) (global.get $turns.size)
    (global.get $turns_now) (global.get $first_turn.size) (global.get $turns_number)))
  (global.set $turns_number (i32.add (global.get $turns_number) (i32.const 1)))
  (local.get $status))

;; The callbacks of a context's life, as the balancer exports them.
(func (export "proxy_abi_version_0_2_1"))
(func (export "proxy_on_vm_start") (param i32 i32) (result i32) (i32.const 1))
(func (export "proxy_on_configure") (param i32 i32) (result i32) (call $create_turns) (i32.const 1))
(func (export "proxy_on_context_create") (param i32 i32))
(func (export "proxy_on_delete") (param i32))
