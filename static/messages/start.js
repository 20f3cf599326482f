// @ts-check
/** The first module that runs: the connection begins while the modules of the page are still loading. */

import { pageData } from "../text.js";
import { connectEarly } from "./connection.js";

connectEarly(pageData());
