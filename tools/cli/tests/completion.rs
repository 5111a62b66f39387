//! Shell completions.

use std::process::Command;

#[test]
fn every_command_is_completed_in_every_shell() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let mut tool = Command::new(env!("CARGO_BIN_EXE_azure-openai-balancer"));
        let output = tool.args(["completion", shell]).output().expect("it runs");
        assert!(output.status.success(), "{shell}");
        let script = String::from_utf8(output.stdout).expect("text");
        for command in ["check", "completion", "keys", "render", "schema"] {
            assert!(script.contains(command), "{shell}: {command}");
        }
    }
}
