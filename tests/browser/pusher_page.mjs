// pusher-js and laravel-echo on a page.
import Echo from "laravel-echo";
import Pusher from "pusher-js/with-encryption";

import { smoke } from "../sdk/pusher_smoke.mjs";

window.run = (place) => smoke(Pusher, Echo, place);
