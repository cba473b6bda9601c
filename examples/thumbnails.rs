//! Thumbnails in the background, with as many at once as there are cores. The result is the image itself.

use std::{error::Error, io::Cursor, path::PathBuf};

use image::{ImageFormat, ImageReader, RgbImage};
use jobmill::{Attempt, HandlerError, JobRequest, KindDefaults, Output, Server, Settings, handle::JobEvent};

const EDGE_PX: u32 = 64;

async fn thumbnail(attempt: Attempt) -> Result<Output, HandlerError> {
    let path = PathBuf::from(std::str::from_utf8(attempt.payload())?);
    let bytes = tokio::fs::read(&path).await?;
    attempt.progress(0.1, "resizing", "resize");
    // Work that keeps a core busy belongs on a blocking thread, not on the threads of the async runtime.
    let resize = move || -> Result<Vec<u8>, image::ImageError> {
        let image = ImageReader::with_format(Cursor::new(bytes), ImageFormat::Png).decode()?;
        let mut small = Vec::new();
        image.thumbnail(EDGE_PX, EDGE_PX).write_to(&mut Cursor::new(&mut small), ImageFormat::Png)?;
        Ok(small)
    };
    // A retry can't repair a broken image.
    let small = tokio::task::spawn_blocking(resize).await?.map_err(HandlerError::permanent)?;
    Ok(Output::new(small).media_type("image/png"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (jobs, images) = (tempfile::tempdir()?, tempfile::tempdir()?);
    let server = Server::builder(Settings::in_folder(jobs.path()))
        .handler("image.thumbnail", KindDefaults::default(), thumbnail)
        .without_listener()
        .start()
        .await?;
    let handle = server.handle();

    let sizes = [(640, 480), (300, 900), (512, 512), (1, 1_000)];
    let mut submitted = Vec::new();
    for (width, height) in sizes {
        let path = images.path().join(format!("{width}x{height}.png"));
        RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8, y as u8, 128])).save(&path)?;
        let job = JobRequest::new("image.thumbnail").payload(path.to_string_lossy().into_owned());
        submitted.push(handle.submit(job).await?);
    }
    for (submitted, (width, height)) in submitted.iter().zip(sizes) {
        let output = submitted.outcome().await?.into_result()?;
        let small = image::load_from_memory_with_format(&output.bytes, ImageFormat::Png)?;
        println!("{width} x {height} became {} x {}", small.width(), small.height());
        assert_eq!(small.width().max(small.height()), EDGE_PX);
        assert_eq!(small.width() > small.height(), width > height, "the shape was lost");
    }

    let broken = images.path().join("broken.png");
    std::fs::write(&broken, "no image at all")?;
    let job = JobRequest::new("image.thumbnail").payload(broken.to_string_lossy().into_owned());
    let mut watch = handle.submit(job).await?.watch();
    let mut last = None;
    while let Some(event) = watch.next().await {
        if let JobEvent::Snapshot(job) | JobEvent::Updated { job, .. } = event? {
            println!("the broken one is {}", job.state.name());
            last = Some(job);
        }
    }
    let failed = last.ok_or("the watch told nothing")?;
    assert_eq!((failed.state.name().as_str(), failed.attempt), ("FAILED", 1));

    server.stopper().drain();
    server.finished().await?;
    Ok(())
}
