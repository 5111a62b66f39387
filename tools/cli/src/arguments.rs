//! The command line.

use std::fs;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::{schema, Form, Options, Problem, Target};

/// Commands that lead from two hosts to a configuration.
const EXAMPLE: &str = "\
Example:
  printf 'backends:\\n- host: contoso-eastus.openai.azure.com\\n- host: contoso-westus.openai.azure.com\\n' > backends.yaml
  azure-openai-balancer check backends.yaml
  azure-openai-balancer keys my-app > /etc/envoy/clients.yaml
  azure-openai-balancer render envoy backends.yaml -o envoy.yaml";

/// Checks configurations of the Azure OpenAI balancer, and makes complete ones from a list of backends
#[derive(Parser)]
#[command(name = "azure-openai-balancer", version = crate::version(), after_help = EXAMPLE)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Check a plugin configuration or a list of backends, YAML or JSON: exit status 1 with every problem, or a summary
    Check {
        /// The file; `-` for standard input
        file: PathBuf,
        /// The kind of the file, if it is ambiguous
        #[arg(long)]
        form: Option<Form>,
        /// Print JSON for programs: an object with `ok`, `problems` and `warnings`
        #[arg(long)]
        json: bool,
    },
    /// Make a complete configuration from a list of backends
    Render {
        /// The control plane or program to render for
        target: Target,
        /// The list of backends; `-` for standard input
        file: PathBuf,
        /// The retry engine, which overrides the file's
        #[arg(long)]
        engine: Option<crate::plugin::Engine>,
        /// Require no key or token from clients: everyone who reaches the listener spends the quota
        #[arg(long)]
        open: bool,
        /// Every feature in Istio and Envoy Gateway, by patches of Envoy's configuration
        #[arg(long)]
        full: bool,
        /// The file to write, instead of standard output
        #[arg(short, long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Let this Envoy, such as `envoy`, read the result, and print its errors
        #[arg(long, value_name = "ENVOY", requires = "output")]
        validate: Option<PathBuf>,
    },
    /// Make a file of keys for clients, with a new key for each
    Keys {
        /// The clients' names, as they appear in statistics and the access log
        #[arg(required = true, value_parser = client_name)]
        clients: Vec<String>,
        /// Add the clients to this file of keys, which is replaced in one step; print their keys
        #[arg(long, value_name = "FILE")]
        add: Option<PathBuf>,
    },
    /// Print a JSON Schema, for editors
    Schema {
        /// The kind of file that the schema describes
        form: Form,
    },
    /// Print a shell's completions for this tool
    Completion {
        /// The shell
        shell: Shell,
    },
}

fn client_name(text: &str) -> Result<String, String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
    match (1..=64).contains(&text.len()) && text.bytes().all(allowed) {
        true => Ok(text.to_owned()),
        false => Err("use 1 to 64 letters, digits, '-' or '_'".to_owned()),
    }
}

/// Runs the command of the command line.
pub fn run(arguments: Arguments) -> ExitCode {
    match carry_out(arguments.command) {
        Ok(status) => status,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn carry_out(command: Command) -> Result<ExitCode, String> {
    match command {
        Command::Check { file, form, json } => {
            let text = read(&file)?;
            let checked = crate::check(&text, form);
            if json {
                let status = ExitCode::from(u8::from(checked.is_err()));
                return print(None, &crate::report(&checked)).map(|_| status);
            }
            match checked {
                Ok(checked) => {
                    for warning in &checked.warnings {
                        eprintln!("{}:{warning}", name(&file));
                    }
                    print(None, &crate::summary(&checked))
                }
                Err(problems) => Ok(complain(&file, &problems)),
            }
        }
        Command::Render {
            target,
            file,
            engine,
            open,
            full,
            output,
            validate,
        } => {
            if validate.is_some() && target != Target::Envoy {
                return Err("--validate: Envoy reads no resources of Kubernetes; use it with `render envoy`".to_owned());
            }
            let text = read(&file)?;
            let options = Options { engine, open, full };
            match crate::rendered(target, &text, options) {
                Ok(rendered) => {
                    for note in &rendered.notes {
                        eprintln!("note: {note}");
                    }
                    if !rendered.files.is_empty() {
                        let table = crate::file_table(&rendered.files);
                        eprint!("Envoy will read these files:\n{table}");
                    }
                    let status = print(output.as_deref(), &rendered.text)?;
                    if let (Some(envoy), Some(output)) = (validate, output) {
                        crate::validate(&envoy, &output, &rendered.files)?;
                        eprintln!("Envoy accepts {}.", output.display());
                    }
                    Ok(status)
                }
                Err(problems) => Ok(complain(&file, &problems)),
            }
        }
        Command::Keys {
            clients,
            add: Some(file),
        } => add_keys(&clients, &file),
        Command::Keys { clients, add: None } => {
            let error = |error| format!("no random numbers: {error}");
            let (file, keys) = crate::keys(&clients).map_err(error)?;
            let status = print(None, &file)?;
            // On a terminal the user has just seen the file.
            if !io::stdout().is_terminal() {
                eprint!("{}", crate::key_lines(&keys));
            }
            eprint!("{}", crate::trial(&keys));
            Ok(status)
        }
        Command::Schema { form } => print(None, &schema::text(form)),
        Command::Completion { shell } => {
            let mut script = Vec::new();
            let mut command = Arguments::command();
            clap_complete::generate(shell, &mut command, "azure-openai-balancer", &mut script);
            print(None, &String::from_utf8_lossy(&script))
        }
    }
}

/// Adds a key for each client to `file`, and prints the new keys, which are not shown again.
fn add_keys(clients: &[String], file: &Path) -> Result<ExitCode, String> {
    let at = |error: &dyn std::fmt::Display| format!("{}: {error}", file.display());
    let permissions = fs::metadata(file)
        .map_err(|error| at(&error))?
        .permissions();
    let mut text = fs::read_to_string(file).map_err(|error| at(&error))?;
    let mut added = Vec::new();
    for client in clients {
        let key;
        (text, key) = crate::add_key(&text, client).map_err(|error| at(&error))?;
        added.push(render::Key {
            client: client.clone(),
            key,
        });
    }
    // Envoy watches for a rename, and must never read an incomplete file.
    let mut new = file.as_os_str().to_owned();
    new.push(".new");
    fs::write(&new, "").map_err(|error| at(&error))?;
    fs::set_permissions(&new, permissions).map_err(|error| at(&error))?;
    fs::write(&new, text).map_err(|error| at(&error))?;
    fs::rename(&new, file).map_err(|error| at(&error))?;
    let status = print(None, &crate::key_lines(&added))?;
    eprint!("{}", crate::trial(&added));
    Ok(status)
}

fn read(file: &Path) -> Result<String, String> {
    let text = if is_standard_input(file) {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        fs::read_to_string(file)
    };
    text.map_err(|error| format!("{}: {error}", name(file)))
}

fn is_standard_input(file: &Path) -> bool {
    file == Path::new("-")
}

fn name(file: &Path) -> String {
    match is_standard_input(file) {
        true => "standard input".to_owned(),
        false => file.display().to_string(),
    }
}

fn print(output: Option<&Path>, text: &str) -> Result<ExitCode, String> {
    let (written, to) = match output {
        Some(file) => (fs::write(file, text), file.display().to_string()),
        None => (
            io::stdout().write_all(text.as_bytes()),
            "standard output".to_owned(),
        ),
    };
    written.map_err(|error| format!("{to}: {error}"))?;
    Ok(ExitCode::SUCCESS)
}

/// Prints every problem, in the form of compilers, which editors recognize.
fn complain(file: &Path, problems: &[Problem]) -> ExitCode {
    let file = name(file);
    for problem in problems {
        eprintln!("{file}:{problem}");
    }
    match problems.len() {
        1 => eprintln!("1 problem"),
        many => eprintln!("{many} problems"),
    }
    ExitCode::FAILURE
}
