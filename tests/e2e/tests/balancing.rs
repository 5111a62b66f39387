//! The backends' shares.

use e2e::{cases, chat_request, load, simulate, Gateway};

cases! {
    fn case_01_two_backends_alternate_exactly(engine) {
        let azure = simulate(&["east", "west"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        let client = gateway.client();
        let backends: Vec<String> = (0..100)
            .map(|_| {
                let chat = chat_request();
                let answer = client.send("POST", &chat.path, &[], &chat.bytes()).unwrap();
                assert_eq!(answer.status, 200, "{}", answer.text());
                answer.header("x-sim-backend").unwrap().to_owned()
            })
            .collect();
        for pair in backends.windows(2) {
            assert_ne!(pair[0], pair[1], "{backends:?}");
        }
        assert_eq!(azure.backend("east").count(), 50);
        assert_eq!(azure.backend("west").count(), 50);
    }

    fn case_02_sixteen_clients_share_evenly_over_all_workers(engine) {
        for workers in [1, 2, 4] {
            let azure = simulate(&["east", "west", "north"]);
            let gateway = Gateway::builder().simulator(&azure).engine(engine).workers(workers).start();
            let result = load(&gateway, 16, 600, &chat_request());
            assert_eq!(result.status(200), 600, "{workers} workers: {result:?}");
            for backend in azure.backends() {
                // All workers share the counter, so the shares are exact.
                assert_eq!(backend.count(), 200, "{workers} workers: {:?}", result.backends);
            }
        }
    }

    fn a_failing_backends_load_is_spread_over_all_others(engine) {
        let azure = simulate(&["east", "west", "north"]);
        let gateway = Gateway::builder().simulator(&azure).engine(engine).start();
        azure.backend("west").set(simulator::Behaviour::internal_error());
        let result = load(&gateway, 4, 120, &chat_request());
        assert_eq!(result.status(200), 120, "{result:?}");
        assert_eq!(result.backend("east"), 60, "{:?}", result.backends);
        assert_eq!(result.backend("north"), 60, "{:?}", result.backends);
    }
}
