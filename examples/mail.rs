//! Mails in the background: rendered from a template and passed to a transport, here a folder of `.eml` files.
//!
//! A repeated request sends no second mail, a repeated attempt overwrites its own file, and an invalid address is not
//! retried.

use std::{error::Error, fs, path::PathBuf};

use jobmill::{Attempt, HandlerError, JobRequest, KindDefaults, Output, Server, Settings, job::JobId};
use serde::{Deserialize, Serialize};

const TEMPLATE: &str = "From: shop@example.com\r\nTo: {to}\r\nMessage-ID: <{id}@example.com>\r\n\
    Subject: Your order {order}\r\nContent-Type: text/plain; charset=utf-8\r\n\r\n\
    Hello {name},\r\n\r\nyour order {order} is on its way.\r\n";

#[derive(Serialize, Deserialize)]
struct Receipt {
    to: String,
    name: String,
    order: u32,
}

impl Receipt {
    fn render(&self, id: JobId) -> Result<String, HandlerError> {
        // A line break in a value would let it inject headers.
        let bad = |text: &str| text.is_empty() || text.chars().any(char::is_control);
        if bad(&self.to) || bad(&self.name) || !self.to.contains('@') {
            return Err(HandlerError::permanent("this is no address to write to").with_code("ADDRESS"));
        }
        let text = TEMPLATE.replace("{id}", &id.to_string()).replace("{order}", &self.order.to_string());
        Ok(text.replace("{to}", &self.to).replace("{name}", &self.name))
    }
}

async fn send(outbox: PathBuf, attempt: Attempt) -> Result<Output, HandlerError> {
    let receipt: Receipt = serde_json::from_slice(attempt.payload()).map_err(HandlerError::permanent)?;
    let mail = receipt.render(attempt.id())?;
    // The file name is the job's id, so that a second attempt after a crash replaces the mail instead of sending
    // another one. The rename at the end keeps readers from seeing half a mail.
    let (part, whole) = (outbox.join("part"), outbox.join(format!("{}.eml", attempt.id())));
    let part = part.with_extension(attempt.id().to_string());
    tokio::fs::write(&part, mail).await?;
    tokio::fs::rename(&part, &whole).await?;
    Ok(Output::new(whole.to_string_lossy().into_owned()).media_type("text/plain"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (jobs, outbox) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let folder = outbox.path().to_owned();
    let server = Server::builder(Settings::in_folder(jobs.path()))
        .handler("mail.receipt", KindDefaults::default(), move |attempt| send(folder.clone(), attempt))
        .without_listener()
        .start()
        .await?;
    let handle = server.handle();

    let receipts = [("ada@example.com", "Ada", 1), ("grace@example.com", "Grace", 2), ("nobody", "?", 3)];
    let mut sent = 0;
    for (to, name, order) in receipts {
        let receipt = Receipt { to: to.into(), name: name.into(), order };
        let job = JobRequest::new("mail.receipt")
            .payload(serde_json::to_vec(&receipt)?)
            .payload_type("application/json")
            .label("order", order.to_string())
            .request_id(format!("receipt-{order}"));
        let submitted = handle.submit(job.clone()).await?;
        let again = handle.submit(job).await?;
        assert_eq!((again.id(), again.created()), (submitted.id(), false), "the order got two mails");
        match submitted.outcome().await?.into_result() {
            Ok(output) => {
                let mail = fs::read_to_string(std::str::from_utf8(&output.bytes)?)?;
                assert!(mail.contains(&format!("To: {to}\r\n")) && mail.contains(&format!("Hello {name},")));
                sent += 1;
            }
            Err(error) => {
                assert_eq!(
                    (to, error.failure.as_ref().map(|failure| &*failure.code)),
                    ("nobody", Some("ADDRESS"))
                );
                println!("{error}");
            }
        }
    }
    assert_eq!((sent, fs::read_dir(outbox.path())?.count()), (2, 2));
    println!("{sent} mails are in the outbox");
    server.stopper().drain();
    server.finished().await?;
    Ok(())
}
