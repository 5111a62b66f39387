;; The host calls in the listener's filter, for both engines.
(func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
  (call $begin)
  ;; Read the request's headers.
  (call $do (call $get_header_map_pairs (global.get $request_headers) (global.get $data) (global.get $size)))
  (if (global.get $everything) (then
    ;; Count the request in the client's limits.
    (call $change_account)
    ;; Set the client's name for the access log.
    (call $do (call $set_property (global.get $client_property) (global.get $client_property.size)
      (global.get $client) (global.get $client.size)))))
  ;; Hold the request until it is complete. The balancer does this for requests of ordinary size.
  (global.get $pause))

(func (export "proxy_on_request_body") (param $context i32) (param $held i32) (param $end i32) (result i32)
  (if (i32.eqz (local.get $end)) (then
    ;; Read the body for `stream_options`, because limits of clients need every stream's token counts. The filter engine reads them
    ;; from its copy below. The load sends a body in one part, and Envoy reports its end in a second callback.
    (if (i32.and (global.get $is_router) (global.get $everything)) (then
      (call $read_request_body (local.get $held))))
    (return (global.get $pause))))
  ;; Copy the body for another attempt.
  (if (i32.eqz (global.get $is_router)) (then
    (call $read_request_body (local.get $held))))
  ;; Draw the request's turn.
  (call $draw_turn)
  ;; Remove the client's key.
  (call $do (call $remove_header_map_value (global.get $request_headers) (global.get $api_key) (global.get $api_key.size)))
  ;; Remove the client's name.
  (if (global.get $everything) (then
    (call $do (call $remove_header_map_value (global.get $request_headers)
      (global.get $client_header) (global.get $client_header.size)))))
  ;; Set the token.
  (call $do (call $replace_header_map_value (global.get $request_headers)
    (global.get $authorization) (global.get $authorization.size) (global.get $token) (global.get $token.size)))
  (if (global.get $is_router)
    ;; Set the property that the route's matcher reads: the cluster and the request's number.
    (then (call $do (call $set_property (global.get $next) (global.get $next.size)
      (global.get $choice) (global.get $choice.size))))
    ;; Set the cluster in the header that the route reads.
    (else (call $do (call $replace_header_map_value (global.get $request_headers)
      (global.get $cluster_header) (global.get $cluster_header.size) (global.get $choice) (global.get $choice.size)))))
  (global.get $continue))
(func (export "proxy_on_request_trailers") (param i32 i32) (result i32) (global.get $continue))

(func (export "proxy_on_response_headers") (param i32 i32 i32) (result i32)
  ;; With the router engine, the cluster's filter reads the answer.
  (if (i32.eqz (global.get $is_router)) (then (call $read_answer)))
  ;; Set the response headers with the backend and the number of attempts.
  (call $do (call $replace_header_map_value (global.get $response_headers)
    (global.get $backend_header) (global.get $backend_header.size) (global.get $backend) (global.get $backend.size)))
  (call $do (call $replace_header_map_value (global.get $response_headers)
    (global.get $attempts_header) (global.get $attempts_header.size) (global.get $attempts) (global.get $attempts.size)))
  ;; Set the response header with the reason for the backend.
  (if (global.get $everything) (then
    (call $do (call $replace_header_map_value (global.get $response_headers)
      (global.get $why_header) (global.get $why_header.size) (global.get $why) (global.get $why.size)))))
  (global.get $continue))

(func (export "proxy_on_response_body") (param $context i32) (param $came i32) (param $end i32) (result i32)
  (if (i32.eqz (global.get $reads_answers)) (then (return (global.get $continue))))
  ;; Read each part of the body, because the token counts are at its end.
  (if (local.get $came) (then
    (call $do (call $get_buffer_bytes (global.get $response_body) (i32.const 0) (local.get $came)
      (global.get $data) (global.get $size)))))
  (if (i32.eqz (local.get $end)) (then (return (global.get $continue))))
  ;; Count the tokens in the client's limits.
  (if (global.get $everything) (then (call $change_account)))
  ;; Set the token counts for the access log.
  (call $do (call $set_property (global.get $input_tokens) (global.get $input_tokens.size)
    (global.get $tokens) (global.get $tokens.size)))
  (call $do (call $set_property (global.get $output_tokens) (global.get $output_tokens.size)
    (global.get $tokens) (global.get $tokens.size)))
  (global.get $continue))
(func (export "proxy_on_response_trailers") (param i32 i32) (result i32) (global.get $continue))
