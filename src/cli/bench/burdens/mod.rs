//! Latency of Submit to an idle queue, alone and while another queue of the same server bears a burden.

mod aside;
mod burden;
mod due;
mod groups;
mod leaving;
mod probe;
mod purge;
mod results;
mod retention;
