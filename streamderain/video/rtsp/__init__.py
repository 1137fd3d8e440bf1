"""RTSP cameras read by ourselves: pictures are whole when their last packet is here, not when the next one begins."""
