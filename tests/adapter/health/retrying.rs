//! The backend of a further attempt, and the retry budget.

use serde_json::json;

use super::*;

cases! {
    fn a_retry_uses_the_latest_health(engine) {
        let gateway = engine.fleet(3, json!({}));
        let slow = gateway.get();
        assert_eq!(slow.attempt().cluster(), EAST);
        // Meanwhile the next backend is throttled.
        let other = gateway.get();
        assert_eq!(other.attempt().cluster(), WEST);
        throttle(&other.attempt(), "30");
        answer(&other.attempt(), 200, "fine");
        answer(&slow.attempt(), 500, "x");
        assert_eq!(slow.attempt().cluster(), NORTH);
    }

    fn without_another_backend_the_answer_is_passed_on(engine) {
        let gateway = engine.fleet(2, json!({}));
        let slow: Vec<_> = (0..6).map(|_| gateway.get()).collect();
        let (east, west): (Vec<_>, Vec<_>) = slow
            .iter()
            .partition(|slow| slow.attempt().cluster() == EAST);
        throttle(&west[0].attempt(), "30");
        answer(&west[0].attempt(), 200, "fine");
        gateway.host.advance(millis(10));
        // One retry tests whether that is still true.
        answer(&east[0].attempt(), 500, &error("InternalServerError"));
        assert_eq!(east[0].attempt().cluster(), WEST);
        answer(&east[1].attempt(), 500, &error("InternalServerError"));
        assert_eq!(east[1].answer().status, 500);
        throttle(&east[0].attempt(), "30");
        assert_eq!(east[0].answer().status, 429);
        drop(slow);
        assert_eq!(gateway.counted("aoai.no_retry.backends_cooling_down"), 1);
        assert_eq!(gateway.host.statistic("aoai.backend.west.trials"), 1);
    }

    fn failures_spend_the_budget_and_refusals_do_not(engine) {
        let more =
            json!({"cooldown": null, "retry": {"budget": {"percent": 0, "min_per_second": 0}}});
        let gateway = engine.fleet(2, more.clone());
        let other = engine.beside(&gateway, 2, more);
        for _ in 0..30 {
            let request = gateway.get();
            throttle(&request.attempt(), "1");
            answer(&request.attempt(), 200, "fine");
        }
        let retried = (0..14).filter(|index| {
            let worker = if index % 2 == 0 { &gateway } else { &other };
            let request = worker.get();
            answer(&request.attempt(), 500, &error("InternalServerError"));
            match &request.attempts()[..] {
                [_, again] => {
                    answer(again, 200, "fine");
                    true
                }
                _ => {
                    assert_eq!(request.answer().status, 500, "the real answer");
                    false
                }
            }
        });
        assert_eq!(retried.count(), 10, "of both workers together");
        assert_eq!(gateway.counted("aoai.no_retry.budget_spent"), 4);
    }

    fn a_failure_that_cannot_be_retried_spends_no_budget(engine) {
        let more =
            json!({"cooldown": null, "retry": {"budget": {"percent": 0, "min_per_second": 0}}});
        let gateway = engine.fleet(1, more);
        for _ in 0..20 {
            answer(&gateway.get().attempt(), 500, "x");
        }
        assert_eq!(gateway.counted("aoai.no_retry.backends_exhausted"), 20);
    }

    fn failures_without_an_answer_spend_the_budget_too(engine) {
        let more =
            json!({"cooldown": null, "retry": {"budget": {"percent": 0, "min_per_second": 0}}});
        let gateway = engine.fleet(2, more);
        for index in 0..14 {
            let request = gateway.send();
            match index % 2 {
                0 => answer(&request.attempt(), 500, "x"),
                _ => request.attempt().fail(),
            }
            if index < 10 {
                answer(&request.attempt(), 200, "fine");
            }
            let expected = match index {
                0..=9 => 200,
                even if even % 2 == 0 => 500,
                _ => 503,
            };
            assert_eq!(outcome(&request).0, expected, "{index}");
        }
        assert_eq!(gateway.counted("aoai.no_retry.budget_spent"), 4);
    }
}
