//! The part of the page that says how everything was measured.

use crate::backend::{STREAM_EVENTS, STREAM_PAUSE};
use crate::measure::Effort;
use crate::variant::{Workload, LONG_STREAM};

/// The section. `pinned` says whether proxy and load had a core each.
pub fn section(effort: &Effort, pinned: bool) -> String {
    let Effort { rounds, slice, .. } = effort;
    let millis = slice.as_millis();
    let stream = Workload::Streams.slice(*slice).as_millis();
    let pause = STREAM_PAUSE.as_millis();
    let cores = match pinned {
        true => "The proxy has the machine's first core for itself. Load and backends, one lean process, have the last.",
        false => "The machine has one core: proxy, load and backends shared it.",
    };
    format!(
        "## How it is measured\n\n\
         All variants run at the same time. They take turns in slices of {millis} ms, or {stream} ms for streams, in shuffled order, \
         {rounds} slices each under each condition. A disturbance of the machine therefore hits all variants alike. Tables show the best \
         slice. The targets also show the median of the ratios within each round, which holds on a machine that is slow for minutes. \
         Absolute times of different runs cannot be compared.\n\n\
         - **CPU per request** is the time that the kernel accounts to all threads of the proxy's processes (`schedstat`), divided by the \
         requests served. Helper processes count as well.\n\
         - {cores}\n\
         - **State of the machine**: everything is warm, unless the column says *one connection*. With one request at a time, caches are \
         cold whenever the next request comes, so every ratio is higher.\n\
         - **Configuration**: every variant has the configuration that is shipped for the balancer, without the access log, and with as \
         few changes as the variant needs. Both sides speak plain HTTP/1.1 over 16 connections. The token has 1.6 KB.\n\
         - **stock Envoy**: one cluster of three hosts, a fixed token that the route adds, retries on another host. **Lua** and \
         **ext_proc**: round robin and token, no retries. The ext_proc service runs beside Envoy and sees request headers only. \
         **LiteLLM**: one worker, three Azure deployments, random choice.\n\
         - **floor**: a module in the balancer's place, with the balancer's configuration. It makes the host calls that a plain chat needs, \
         with arguments of the same size, and computes nothing. It keeps what it reads for sixteen requests. The floor is Envoy's price \
         for these calls. Where the floor misses a target, no module with these calls can meet it on this machine.\n\
         - **streams** are {STREAM_EVENTS} events, {pause} ms apart, over 64 connections. The value is for a whole stream. *First byte* is \
         the time from the request's first byte to the first byte of the response body, over one connection. *Retried*: the first attempt \
         of every request is answered 503. *After an error in the stream*: the first attempt is answered with status 200 and a stream \
         that begins with an error. **streams of {LONG_STREAM}** have as many events, over 16 connections. Their CPU divided by \
         {LONG_STREAM} is that of an event.\n\
         - **keyed**: each request has a `prompt_cache_key` of its own. The balancer runs with and without `affinity`.\n\
         - **tokens not counted** is the balancer with `usage: false`.\n\
         - **answers not read** is the balancer with `usage: false` and `retry.stream_start: 0s`. Nothing of a response body comes into \
         the module.\n\
         - **everything on** is the balancer with prices, limits of clients, client names and `headers.why`. Its floor makes no host calls \
         for these.\n\
         - **How cost grows**: tables have the ratio to their first column in brackets. The words come from the exponent between the first \
         and the last column, where 1 is linear. Half of the backends are in cooldown for a quota. Open streams have an event every ten \
         seconds; their memory is the growth of the whole process divided by the streams. The [budget](../tests/budget.toml) has the \
         module's part of it.\n\
         - **one of three throttled**: one backend answers every request with 429 and `retry-after: 2`. Plain Envoy and the floors, which \
         do not retry, meet no such backend.\n\
         - **memory at rest** is read seven minutes after the start or later. Envoy's allocator returns the memory that compiling the \
         module took when it has not used it for five minutes.\n\
         - **workers**: Envoy and load share all cores, so only the ratios between the rows mean something.\n\n\
         The tests check everything that does not depend on the machine: host calls, bytes and instructions of a request, memory of an open \
         stream, and the size of the module. Their limits are in [budget.toml](../tests/budget.toml).\n"
    )
}
